// A provider of OpenID Connect with people in it. Whoever knows a name is let in: what is asked for beside it is
// the provider's affair.
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

export const PEOPLE = {
  olga: { email: 'olga@acme.example', email_verified: true, groups: ['staff', 'hedge-operators'] },
  vera: { email: 'vera@acme.example', email_verified: true, groups: [] },
  // Says to be somebody whom it is not known to be.
  mallory: { email: 'vera@acme.example', email_verified: false, groups: ['hedge operators'] },
};

const KINDS = {
  RS256: ['rsa', { modulusLength: 2048 }],
  PS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
};

function key(alg, kid) {
  const [kind, options] = KINDS[alg];
  return { ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), use: 'sig', alg, kid };
}

export class Provided {
  #server;
  client = { id: 'hedge', secret: 'the-client-secret:+%&' };

  constructor(port, redirectUrls) {
    this.port = port;
    this.redirectUrls = redirectUrls;
    this.issuer = `http://127.0.0.1:${port}`;
  }

  // With new keys each time, and with nobody signed in. Claims are in the ID token, or in userinfo alone, which is
  // how most providers have it.
  async start({ alg = 'RS256', inToken = false } = {}) {
    const provider = new Provider(this.issuer, {
      clients: [{
        client_id: this.client.id,
        client_secret: this.client.secret,
        redirect_uris: this.redirectUrls,
        id_token_signed_response_alg: alg,
      }],
      claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'groups'] },
      conformIdTokenClaims: !inToken,
      cookies: { keys: ['for tests'] },
      enabledJWA: { idTokenSigningAlgValues: Object.keys(KINDS) },
      features: { devInteractions: { enabled: true } },
      findAccount: (_, id) => PEOPLE[id] && { accountId: id, claims: () => ({ sub: id, ...PEOPLE[id] }) },
      jwks: { keys: [key(alg, `${alg}-${Date.now()}`)] },
      pkce: { required: () => true },
      ttl: { AccessToken: 60, AuthorizationCode: 60, Grant: 600, IdToken: 60, Interaction: 600, Session: 600 },
    });
    provider.on('server_error', (_, error) => console.log(error));
    this.#server = createServer(provider.callback());
    this.#server.listen(this.port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  async stop() {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }
}

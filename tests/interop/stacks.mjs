// Two implementations of HPKE under one interface: a context seals or opens in order, and exports.

import { Aes256Gcm, CipherSuite as CoreSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";
import * as noble from "@panva/hpke-noble";
import * as hpke from "hpke";

const bytes = (any) => new Uint8Array(any);

const core = (kem) => {
  const suite = new CoreSuite({ kem, kdf: new HkdfSha256(), aead: new Aes256Gcm() });
  return {
    async keys() {
      const pair = await suite.kem.generateKeyPair();
      return { public: bytes(await suite.kem.serializePublicKey(pair.publicKey)), secret: pair.privateKey };
    },
    async sender(publicKey, info) {
      const recipientPublicKey = await suite.kem.deserializePublicKey(publicKey);
      const context = await suite.createSenderContext({ recipientPublicKey, info });
      return {
        enc: bytes(context.enc),
        seal: async (plain, aad) => bytes(await context.seal(plain, aad)),
        export: async (label, length) => bytes(await context.export(label, length)),
      };
    },
    async recipient(secret, enc, info) {
      const context = await suite.createRecipientContext({ recipientKey: secret, enc, info });
      return {
        open: async (sealed, aad) => bytes(await context.open(sealed, aad)),
        export: async (label, length) => bytes(await context.export(label, length)),
      };
    },
  };
};

const panva = (kem) => {
  const suite = new hpke.CipherSuite(kem, hpke.KDF_HKDF_SHA256, hpke.AEAD_AES_256_GCM);
  return {
    async keys() {
      const pair = await suite.GenerateKeyPair(true);
      return { public: await suite.SerializePublicKey(pair.publicKey), secret: pair };
    },
    async sender(publicKey, info) {
      const key = await suite.DeserializePublicKey(publicKey);
      const { encapsulatedSecret, ctx } = await suite.SetupSender(key, { info });
      return {
        enc: encapsulatedSecret,
        seal: (plain, aad) => ctx.Seal(plain, aad),
        export: (label, length) => ctx.Export(label, length),
      };
    },
    async recipient(secret, enc, info) {
      const ctx = await suite.SetupRecipient(secret, enc, { info });
      return {
        open: (sealed, aad) => ctx.Open(sealed, aad),
        export: (label, length) => ctx.Export(label, length),
      };
    },
  };
};

/** By name, then by KEM. */
export const stacks = {
  "@hpke/core": {
    x25519: core(new DhkemX25519HkdfSha256()),
    "x-wing": core(new XWing()),
  },
  hpke: {
    x25519: panva(hpke.KEM_DHKEM_X25519_HKDF_SHA256),
    "x-wing": panva(noble.KEM_MLKEM768_X25519),
  },
};

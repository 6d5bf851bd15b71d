// Enough of a browser to sign in with: it keeps cookies by host, follows redirects one by one, and fills in the
// forms of oidc-provider's own pages.
import assert from 'node:assert/strict';

const KEPT = /^([^=]+)=([^;]*)/;

export class Browser {
  #kept = new Map();

  // The answer itself, whatever it is.
  async ask(url, { method = 'GET', headers = {}, body } = {}) {
    const { hostname } = new URL(url);
    const cookie = [...this.#of(hostname)].map(([name, value]) => `${name}=${value}`).join('; ');
    const sent = { accept: 'text/html', ...(cookie && { cookie }), ...headers };
    const answer = await fetch(url, { method, headers: sent, body, redirect: 'manual' });
    for (const line of answer.headers.getSetCookie()) {
      const [, name, value] = KEPT.exec(line);
      if (value === '' || /max-age=0/i.test(line)) this.#of(hostname).delete(name);
      else this.#of(hostname).set(name, value);
    }
    return answer;
  }

  #of(hostname) {
    if (!this.#kept.has(hostname)) this.#kept.set(hostname, new Map());
    return this.#kept.get(hostname);
  }

  cookies(hostname) {
    return new Map(this.#of(hostname));
  }

  // Signs in from the page on, up to the address that leads back, which is not gone to. Where the provider knows
  // who it is, nothing is filled in.
  async goToProvider(page, name, { denies = false } = {}) {
    let url = page;
    let answer = await this.ask(url);
    for (let steps = 0; steps < 20; steps += 1) {
      if (answer.status === 303 || answer.status === 302) {
        url = new URL(answer.headers.get('location'), url).href;
        if (new URL(url).pathname === '/admin/callback') return url;
        answer = await this.ask(url);
        continue;
      }
      assert.equal(answer.status, 200, `${url}: ${await answer.clone().text()}`);
      const text = await answer.text();
      const prompt = /name="prompt" value="(\w+)"/.exec(text)?.[1];
      const to = /action="([^"]+)"/.exec(text)?.[1];
      assert.ok(prompt && to, `${url} is no page of the provider's: ${text}`);
      if (denies) {
        url = `${url}/abort`;
        answer = await this.ask(url);
        continue;
      }
      const fields = prompt === 'login' ? { prompt, login: name, password: 'any' } : { prompt };
      const body = new URLSearchParams(fields).toString();
      const headers = { 'content-type': 'application/x-www-form-urlencoded' };
      url = new URL(to, url).href;
      answer = await this.ask(url, { method: 'POST', headers, body });
    }
    throw new Error('the provider goes round in circles');
  }
}

// Chunked Oblivious HTTP, written after RFC 9458 and draft-ietf-ohai-chunked-ohttp-08 over whichever
// implementation of HPKE: HKDF-SHA256 and AES-256-GCM always.

import { createCipheriv, createDecipheriv, createHmac, randomBytes } from "node:crypto";

export const KEMS = { x25519: { id: 0x0020, enc: 32, key: 32 }, "x-wing": { id: 0x647a, enc: 1120, key: 1216 } };
const KDF = 1;
const AEAD = 2;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;

const text = (string) => new TextEncoder().encode(string);
const concat = (...parts) => new Uint8Array(Buffer.concat(parts.map((part) => Buffer.from(part))));
const u16 = (...numbers) => new Uint8Array(numbers.flatMap((number) => [number >> 8, number & 0xff]));

const NOTHING = text("");
const FINAL = text("final");
const REQUEST = text("message/bhttp chunked request");
const RESPONSE = text("message/bhttp chunked response");

/** RFC 9000, section 16. */
function varint(value) {
  if (value < 0x40) return new Uint8Array([value]);
  return u16(value | 0x4000);
}

/** RFC 9458, section 3.1, with its length before it. */
export function keyList(...configs) {
  const one = ({ id, kem, key }) => concat([id], u16(KEMS[kem].id), key, u16(4, KDF, AEAD));
  return concat(...configs.map(one).flatMap((config) => [u16(config.length), config]));
}

export function readKeyList(list) {
  const configs = [];
  for (let at = 0; at < list.length; ) {
    const length = (list[at] << 8) | list[at + 1];
    const config = list.subarray(at + 2, at + 2 + length);
    const [kem, of] = Object.entries(KEMS).find(([, { id }]) => id === ((config[1] << 8) | config[2]));
    configs.push({ id: config[0], kem, key: config.subarray(3, 3 + of.key), suites: config.subarray(5 + of.key) });
    at += 2 + length;
  }
  return configs;
}

const head = (id, kem) => concat([id], u16(KEMS[kem].id, KDF, AEAD));
const info = (head) => concat(REQUEST, [0], head);

/** Section 6.2: what a response is sealed with, both ways. */
async function responseCipher(context, enc, nonce) {
  const secret = await context.export(RESPONSE, KEY_BYTES);
  const hmac = (key, ...parts) => parts.reduce((mac, part) => mac.update(part), createHmac("sha256", key)).digest();
  const prk = hmac(concat(enc, nonce), secret);
  const key = hmac(prk, "key", new Uint8Array([1]));
  const base = hmac(prk, "nonce", new Uint8Array([1])).subarray(0, NONCE_BYTES);
  let counter = 0n;
  const next = () => {
    const nonce = Buffer.from(base);
    nonce.writeBigUInt64BE(nonce.readBigUInt64BE(4) ^ counter++, 4);
    return nonce;
  };
  return {
    async seal(plain, aad) {
      const cipher = createCipheriv("aes-256-gcm", key, next());
      cipher.setAAD(aad);
      return concat(cipher.update(plain), cipher.final(), cipher.getAuthTag());
    },
    async open(sealed, aad) {
      const cipher = createDecipheriv("aes-256-gcm", key, next());
      cipher.setAAD(aad);
      cipher.setAuthTag(sealed.subarray(-16));
      return concat(cipher.update(sealed.subarray(0, -16)), cipher.final());
    },
  };
}

/** Chunks, each with its length, and the last one with 0 before it. */
async function sealChunks(cipher, chunks) {
  const parts = [];
  for (const [number, chunk] of chunks.entries()) {
    const isFinal = number + 1 === chunks.length;
    const sealed = await cipher.seal(chunk, isFinal ? FINAL : NOTHING);
    parts.push(isFinal ? varint(0) : varint(sealed.length), sealed);
  }
  return concat(...parts);
}

/** Opens chunks as their bytes come: one at a time. */
class ChunkReader {
  constructor(cipher) {
    this.cipher = cipher;
    this.buffer = [];
    this.length = null;
    this.chunks = [];
  }

  async push(byte) {
    this.buffer.push(byte);
    if (this.length === null) {
      const bytes = 1 << (this.buffer[0] >> 6);
      if (this.buffer.length < bytes) return;
      const [first, ...rest] = this.buffer;
      this.length = rest.reduce((value, byte) => value * 256 + byte, first & 0x3f);
      this.buffer = [];
    } else if (this.length > 0 && this.buffer.length === this.length) {
      this.chunks.push(await this.cipher.open(new Uint8Array(this.buffer), NOTHING));
      this.buffer = [];
      this.length = null;
    }
  }

  async finish() {
    if (this.length !== 0) throw new Error("there is no final chunk");
    this.chunks.push(await this.cipher.open(new Uint8Array(this.buffer), FINAL));
    return this.chunks;
  }
}

/** `plain` in three pieces or so. */
export function cut(plain) {
  const third = Math.min(Math.ceil(plain.length / 3), 16_384);
  const chunks = [];
  for (let at = 0; at < plain.length; at += third) chunks.push(plain.subarray(at, at + third));
  return chunks;
}

/** A client's end. Gives the sealed request, and what opens its response. */
export async function sealRequest(hpke, config, make) {
  const ids = head(config.id, config.kem);
  const context = await hpke.sender(config.key, info(ids));
  const sealed = concat(ids, context.enc, await sealChunks(context, cut(await make(context))));
  const open = async (response) => {
    const cipher = await responseCipher(context, context.enc, response.subarray(0, KEY_BYTES));
    const reader = new ChunkReader(cipher);
    for (const byte of response.subarray(KEY_BYTES)) await reader.push(byte);
    return reader.finish();
  };
  return { sealed, open };
}

/** A gateway's end. Gives what was asked, and what seals the response. */
export async function openRequest(hpke, secret, kem, sealed) {
  const enc = sealed.slice(7, 7 + KEMS[kem].enc);
  const context = await hpke.recipient(secret, enc, info(sealed.slice(0, 7)));
  const reader = new ChunkReader(context);
  for (const byte of sealed.subarray(7 + enc.length)) await reader.push(byte);
  const plain = concat(...(await reader.finish()));
  const seal = async (chunks) => {
    const nonce = new Uint8Array(randomBytes(KEY_BYTES));
    return concat(nonce, await sealChunks(await responseCipher(context, enc, nonce), chunks));
  };
  return { plain, seal, context };
}

// The stock memory adapter keeps a thousand entries and then forgets the oldest, so
// that tokens of a large test die by themselves. This one keeps each to its end.

const purgeEvery = 30_000;

export class Memory {
  #entries = new Map();

  constructor() {
    setInterval(() => this.#purge(), purgeEvery).unref();
  }

  async upsert(id, payload, expiresIn) {
    const end = expiresIn === undefined ? Infinity : Date.now() + expiresIn * 1000;
    this.#entries.set(id, { payload, end });
  }

  async find(id) {
    const entry = this.#entries.get(id);
    return entry && entry.end > Date.now() ? entry.payload : undefined;
  }

  async findByUid(uid) {
    return this.#first((payload) => payload.uid === uid);
  }

  async findByUserCode(userCode) {
    return this.#first((payload) => payload.userCode === userCode);
  }

  async consume(id) {
    const payload = await this.find(id);
    if (payload) payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    this.#entries.delete(id);
  }

  async revokeByGrantId(grantId) {
    for (const [id, { payload }] of this.#entries) {
      if (payload.grantId === grantId) this.#entries.delete(id);
    }
  }

  #first(matches) {
    const now = Date.now();
    for (const { payload, end } of this.#entries.values()) {
      if (end > now && matches(payload)) return payload;
    }
    return undefined;
  }

  #purge() {
    const now = Date.now();
    for (const [id, { end }] of this.#entries) {
      if (end <= now) this.#entries.delete(id);
    }
  }
}

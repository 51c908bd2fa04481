// Planes of volumes from the node, kept while there is room, the neighbours fetched ahead.

const MOST_BYTES = 160 * 1024 * 1024;
const MOST_AT_ONCE = 4;

export class Slices {
  constructor(address, revision) {
    this.address = address;
    this.revision = revision;
    this.held = new Map(); // by key; the one used last comes last
    this.bytes = 0;
    this.asked = new Map(); // key -> promise
    this.waiting = []; // what is fetched ahead, the next one last
    this.busy = 0;
    this.spent = []; // milliseconds of the last fetches, for whoever measures
  }

  static key(series, plane, index) {
    return `${series}/${plane}/${index}`;
  }

  // the values if they are held, else null
  now(series, plane, index) {
    const key = Slices.key(series, plane, index);
    const found = this.held.get(key);
    if (!found) return null;
    this.held.delete(key);
    this.held.set(key, found);
    return found;
  }

  // a promise of the values
  get(series, plane, index) {
    const found = this.now(series, plane, index);
    if (found) return Promise.resolve(found);
    const key = Slices.key(series, plane, index);
    if (!this.asked.has(key)) {
      this.asked.set(key, this.fetch(key).finally(() => this.asked.delete(key)));
    }
    return this.asked.get(key);
  }

  async fetch(key) {
    this.busy += 1;
    const began = performance.now();
    try {
      const answer = await fetch(`${this.address}/images/${key}?revision=${this.revision}`, {
        credentials: "same-origin",
      });
      if (!answer.ok) throw new Error(await problemOf(answer));
      const values = new Int16Array(await answer.arrayBuffer());
      this.keep(key, values);
      this.spent.push(performance.now() - began);
      if (this.spent.length > 500) this.spent.shift();
      return values;
    } finally {
      this.busy -= 1;
      this.goOn();
    }
  }

  keep(key, values) {
    this.held.set(key, values);
    this.bytes += values.byteLength;
    for (const [oldest, old] of this.held) {
      if (this.bytes <= MOST_BYTES) break;
      this.held.delete(oldest);
      this.bytes -= old.byteLength;
    }
  }

  // fetch these when nothing else is to be done; what was to be fetched ahead before is forgotten
  ahead(wanted) {
    this.waiting = wanted.reverse();
    this.goOn();
  }

  goOn() {
    while (this.busy < MOST_AT_ONCE && this.waiting.length) {
      const [series, plane, index] = this.waiting.pop();
      if (!this.now(series, plane, index)) this.get(series, plane, index).catch(() => {});
    }
  }
}

// what the node says is wrong
export async function problemOf(answer) {
  try {
    const told = await answer.json();
    return [told.detail, told.hint].filter(Boolean).join("; ") || `status ${answer.status}`;
  } catch {
    return `status ${answer.status}`;
  }
}

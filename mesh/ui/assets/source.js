// The agent's answers: asked for again and again while the page is in sight, and never taken for newer than they are.

const every = 2000; // milliseconds between answers and the next questions
const slowest = 30000; // of them when the agent doesn't answer
const rowTime = 50; // milliseconds for each node between two questions for the matrix: the agent doesn't gather it more often
const patience = 8000; // how long an answer may take
export const oldAfter = 10; // seconds after which what is shown is called old

// Source asks the agent. changed is called after each round, told or not.
export class Source {
  status = null;
  topology = null;
  matrix = null;
  missing = ""; // why there is no matrix
  first = null; // the first status
  error = ""; // why the agent couldn't be asked; "": it could
  failures = 0; // in a row
  #answered = 0; // when the status was, by performance.now
  #next = 0;
  #timer = 0;
  #asking = false;
  #gathers = true; // as far as is known the agent has a matrix
  #matrixDue = 0;
  #changed;

  constructor(changed) {
    this.#changed = changed;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.#timer);
      if (!document.hidden) this.ask();
    });
  }

  // age is how old the status is, in seconds.
  age() {
    return (performance.now() - this.#answered) / 1000;
  }

  // wait is how long it is until the next question, in seconds.
  wait() {
    return Math.max(0, (this.#next - performance.now()) / 1000);
  }

  // ask asks now, and goes on asking while the page is in sight.
  async ask() {
    clearTimeout(this.#timer);
    if (this.#asking) return;
    this.#asking = true;
    const begin = performance.now();
    await this.#round();
    const took = performance.now() - begin;
    this.#asking = false;
    // An agent that is slow to answer, as in a big mesh, is asked less often.
    const pause = this.failures > 0 ? Math.min(slowest, every * 2 ** (this.failures - 1)) : Math.max(every, 3 * took);
    this.#next = performance.now() + pause;
    if (!document.hidden) this.#timer = setTimeout(() => this.ask(), pause);
    this.#changed();
  }

  async #round() {
    try {
      const due = performance.now() >= this.#matrixDue;
      const [status, topology, matrix] = await Promise.all([
        get("v1/status"), get("v1/topology"), this.#gathers && due ? get("v1/matrix").catch((error) => error) : null,
      ]);
      this.status = status;
      this.topology = topology;
      if (due) this.#gathered(matrix);
      this.first ??= status;
      this.error = "";
      this.failures = 0;
      this.#answered = performance.now();
    } catch (error) {
      this.error = error.message;
      this.#gathers = true; // it may be another agent when it answers again
      this.#matrixDue = 0;
      this.failures++;
    }
  }

  // gathered takes the matrix, or why there is none; null: it isn't asked for.
  #gathered(matrix) {
    if (matrix?.status === 404) this.#gathers = false;
    const told = matrix !== null && !(matrix instanceof Error);
    this.matrix = told ? matrix : null;
    this.missing = told ? "" : "What other nodes measure isn't known here, so there is only this node's row.";
    this.#matrixDue = told ? performance.now() + rowTime * matrix.rows.length : 0;
  }
}

async function get(path) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(patience) });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? `nothing came within ${patience / 1000} s` : "it can't be reached");
  }
  if (!response.ok) {
    const text = (await response.text()).trim();
    throw Object.assign(new Error(text || `it says ${response.status}`), { status: response.status });
  }
  try {
    return await response.json();
  } catch {
    throw new Error("its answer can't be read");
  }
}

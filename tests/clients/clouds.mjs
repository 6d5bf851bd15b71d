// The models that every client is asked with, and what their providers were sent.
//
// `local` is the model on this machine. Of the two clouds one speaks OpenAI's dialect and one Anthropic's:
// both are the fake upstream, which says what a marker in the last text tells it to and is at CLOUD_URL.
export const LOCAL = 'local';
export const OPENAI = 'fake/big';
export const ANTHROPIC = 'claude/opus';
export const CLOUDS = [OPENAI, ANTHROPIC];
export const EVERYWHERE = [LOCAL, ...CLOUDS];
// A breaker is one model's, and opens after five failures in a row: those that are asked to refuse, and to
// break off, have their own.
export const FAULTY = { [OPENAI]: 'fake/faulty', [ANTHROPIC]: 'claude/faulty' };
export const BROKEN = { [OPENAI]: 'fake/broken', [ANTHROPIC]: 'claude/broken' };

// One red pixel.
export const PNG =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC';
// What the fake has for a place, a city, and the like.
export const CITY = 'Lisbon';

// A text, and what its answer holds.
export const question = (model) =>
  model === LOCAL ? ['What is the capital of Portugal?', CITY] : ['[[fake tokens=3]]', 't0 t1 t2'];

const seen = async () => (await fetch(`${process.env.CLOUD_URL}/_seen`)).json();
// The request that the cloud saw last.
export const sent = async () => (await seen()).requests.at(-1).body;
// How the cloud's answers ended: asked, completed, abandoned.
export const counts = async () => (await seen()).counts;

/** Collects metrics for `GET /metrics`, in Prometheus' text. The only file that imports prom-client. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

export interface Metrics {
  /** Counts up. Names end in _total. */
  counter(name: string, help: string, labels?: readonly string[]): { add(count: number, labels?: Readonly<Record<string, string>>): void };
  /** Read when asked for; a failed reading is left out. */
  gauge(name: string, help: string, read: () => number | Promise<number>): void;
  /** Seconds. */
  duration(name: string, help: string, labels?: readonly string[]): { observe(seconds: number, labels?: Readonly<Record<string, string>>): void };
  text(): Promise<string>;
  readonly contentType: string;
}

/** Upper bounds of durations, in seconds. */
const BUCKETS_S = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** Creates a registry of its own, so that several can live in one process. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return {
    counter(name, help, labels = []) {
      const counter = new Counter({ name, help, labelNames: [...labels], registers: [registry] });
      return { add: (count, values) => (values === undefined ? counter.inc(count) : counter.inc(values, count)) };
    },
    gauge(name, help, read) {
      new Gauge({
        name,
        help,
        registers: [registry],
        async collect() {
          try {
            this.set(await read());
          } catch {
            this.reset();
          }
        },
      });
    },
    duration(name, help, labels = []) {
      const histogram = new Histogram({ name, help, labelNames: [...labels], buckets: BUCKETS_S, registers: [registry] });
      return { observe: (seconds, values) => (values === undefined ? histogram.observe(seconds) : histogram.observe(values, seconds)) };
    },
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
}

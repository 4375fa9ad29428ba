import { expect, test } from 'vitest';
import { placeholderIn } from './placeholder.ts';

test.each([
  ['https://cloud.example', 'cloud.example'],
  ['https://CLOUD.EXAMPLE:8443/stile', 'cloud.example'],
  ['https://example', 'example'],
  ['https://stile.example.com/', 'stile.example.com'],
  ['mqtts://broker.example.org:8883', 'broker.example.org'],
  ['https://nowhere.invalid', 'nowhere.invalid'],
  ['postgres://stile:…@127.0.0.1/stile', '…'],
  ['postgres://stile:...@127.0.0.1/stile', '...'],
  ['postgres://stile@db.example/stile', 'db.example'],
  ['https://…', '…'],
  ['https://<host>:8080', '<host>'],
  ['/dev/serial/by-id/usb-…', '…'],
])('B3: %s was left as printed: %s', (value, piece) => {
  expect(placeholderIn(value)).toBe(piece);
});

test.each([
  'https://tickets.venue.io',
  'http://127.0.0.1:8080',
  'http://localhost:8080',
  'https://examples.com',
  'https://my-example.net',
  'https://venue.lan/example.com',
  'postgres://stile:a...b@127.0.0.1/stile',
  'postgres://stile:s%3Cx%3E@10.0.0.1/example',
  '/var/lib/example',
  'north-03',
  '',
])('B3: %s is somebody’s own', (value) => {
  expect(placeholderIn(value)).toBeNull();
});

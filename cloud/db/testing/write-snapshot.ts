/** Writes schema.snapshot.txt anew from an empty database that `migrate` has brought to this version (`make schema`). */
import { writeFileSync } from 'node:fs';
import { freshDatabase } from '../../../testkit/database.ts';
import { connectOwner } from '../database.ts';
import { SNAPSHOT_FILE, schemaSnapshot } from './snapshot.ts';

const fresh = await freshDatabase();
const owner = await connectOwner(fresh.url);
const lines = await schemaSnapshot(owner);
writeFileSync(SNAPSHOT_FILE, `${lines.join('\n')}\n`);
await owner.close();
await fresh.drop();
process.stdout.write(`${lines.length} lines in cloud/db/schema.snapshot.txt\n`);
process.exit(0);

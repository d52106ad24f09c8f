// Verify OCMF records with @road-labs/ocmf, an implementation that is none of ours.
//   node verify.mjs <folder that holds node_modules>  < {"key": hex, "records": [text, ...]}
// Writes a list with one entry a record: true, false, or the text of what was thrown.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const require = createRequire(`${process.argv[2]}/`);
const { Verifier } = require('@road-labs/ocmf');
const { Crypto } = require('@road-labs/ocmf-crypto-noble');

const { key, records } = JSON.parse(readFileSync(0, 'utf8'));
const crypto = new Crypto();
const publicKey = await crypto.decodeEcPublicKey(Buffer.from(key, 'hex'), 'spki-der');
const verifier = new Verifier(crypto);
const results = [];
for (const record of records) {
    try {
        results.push((await verifier.parseAndVerify(record, publicKey)).verified);
    } catch (error) {
        results.push(String(error));
    }
}
process.stdout.write(JSON.stringify(results));

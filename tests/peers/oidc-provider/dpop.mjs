// Verifies DPoP proofs with a library that nobody here wrote: npm's jose, which oidc-provider brings.
//
//     cd target/peers/oidc-provider && node …/dpop.mjs '["<proof>", …]'
//
// It prints, for each, the header, the claims and the thumbprint of its key, or `{"error": …}`.
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const packages = createRequire(path.resolve('package.json'));
const jose = await import(pathToFileURL(packages.resolve('jose')).href);

async function verify(proof) {
  const { payload, protectedHeader } = await jose.jwtVerify(proof, jose.EmbeddedJWK, { typ: 'dpop+jwt' });
  const thumbprint = await jose.calculateJwkThumbprint(protectedHeader.jwk);
  return { header: protectedHeader, claims: payload, thumbprint };
}
const verified = JSON.parse(process.argv[2]).map((proof) =>
  verify(proof).catch((error) => ({ error: error.code ?? String(error) })));
console.log(JSON.stringify(await Promise.all(verified)));

// Signs or verifies one JWT with a library that nobody here wrote: npm's jose, which oidc-provider brings.
//
//     cd target/peers/oidc-provider && node …/jwt.mjs '{"verify": "<jwt>", "jwks": {…}, "issuer": "…", "audience": "…"}'
//     cd target/peers/oidc-provider && node …/jwt.mjs '{"sign": {<claims>}, "header": {…}, "jwk": {…}}'
//
// It prints the claims and the header, or the JWT, or `{"error": …}`.
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const packages = createRequire(path.resolve('package.json'));
const jose = await import(pathToFileURL(packages.resolve('jose')).href);
const { verify, jwks, issuer, audience, sign, header, jwk } = JSON.parse(process.argv[2]);

async function run() {
  if (verify) {
    const { payload, protectedHeader } = await jose.jwtVerify(verify, jose.createLocalJWKSet(jwks), { issuer, audience });
    return { claims: payload, header: protectedHeader };
  }
  const key = await jose.importJWK(jwk, header.alg);
  return { jwt: await new jose.SignJWT(sign).setProtectedHeader(header).sign(key) };
}
console.log(JSON.stringify(await run().catch((error) => ({ error: error.code ?? String(error) }))));

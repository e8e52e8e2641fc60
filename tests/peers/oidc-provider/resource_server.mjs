// A resource server that nobody here wrote (npm's oauth4webapi), on 127.0.0.1, for one test. It admits tokens that are bound
// to a key, with their proof.
//
//     cd target/peers/oidc-provider && node …/resource_server.mjs '{"issuer": …, "audience": …}'
//
// It prints `{"origin": …}` when it listens, and ends when its input does. It answers a request with the claims of its token,
// or with 401 and the reason.
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const packages = createRequire(path.resolve('package.json'));
const oauth = await import(pathToFileURL(packages.resolve('oauth4webapi')).href);
const { issuer, audience } = JSON.parse(process.argv[2]);
const as = { issuer, jwks_uri: `${issuer}/jwks` };
const options = {
  requireDPoP: true,
  signingAlgorithms: ['RS256', 'ES256'],
  [oauth.allowInsecureRequests]: true,
};

const server = http.createServer(async (request, response) => {
  const headers = new Headers();
  for (const [name, values] of Object.entries(request.headersDistinct)) {
    for (const value of values) headers.append(name, value);
  }
  const url = `http://${request.headers.host}${request.url}`;
  const asked = new Request(url, { method: request.method, headers });
  response.setHeader('content-type', 'application/json');
  try {
    response.end(JSON.stringify(await oauth.validateJwtAccessToken(as, asked, audience, options)));
  } catch (error) {
    response.writeHead(401, { 'www-authenticate': 'DPoP error="invalid_dpop_proof"' });
    response.end(JSON.stringify({ error: error.message, code: error.code }));
  }
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
process.stdin.on('end', () => process.exit()).resume();
console.log(JSON.stringify({ origin: `http://127.0.0.1:${server.address().port}` }));

// A client that nobody here wrote (npm's oauth4webapi) gets a token that is bound to its key, and calls a resource with it.
//
//     cd target/peers/oidc-provider && node …/dpop_client.mjs '{"issuer": …, "client": …, "secret": …, "target": …, "url": …, …}'
//
// It prints what each call was answered: `{"status": …}` or `{"challenges": …}`.
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const packages = createRequire(path.resolve('package.json'));
const oauth = await import(pathToFileURL(packages.resolve('oauth4webapi')).href);

const { issuer, client: client_id, secret, target, url, algorithm, codes } = JSON.parse(process.argv[2]);
const insecure = { [oauth.allowInsecureRequests]: true };
const discovered = await oauth.discoveryRequest(new URL(issuer), insecure);
const as = await oauth.processDiscoveryResponse(new URL(issuer), discovered);
const client = { client_id };

async function keys() {
  return oauth.DPoP(client, await oauth.generateKeyPair(algorithm));
}

// As its documentation has it: once more with the nonce that the server sent.
async function withNonce(call) {
  try {
    return await call();
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error;
    return call();
  }
}

// The user's, if there is a code, else the client's own.
async function token(DPoP) {
  const code = codes?.shift();
  const [grant, parameters] = code
    ? ['authorization_code', { code: code.code, code_verifier: code.verifier, redirect_uri: code.redirect_uri }]
    : ['client_credentials', { resource: target }];
  return withNonce(async () => {
    const authentication = oauth.ClientSecretPost(secret);
    const options = { DPoP, ...insecure };
    const form = new URLSearchParams(parameters);
    const answer = await oauth.genericTokenEndpointRequest(as, client, authentication, grant, form, options);
    return oauth.processGenericTokenEndpointResponse(as, client, answer);
  });
}

async function call(token, DPoP, again = withNonce, method = 'GET') {
  const proofs = [];
  const fetched = (address, options) => {
    proofs.push(options.headers.dpop);
    return fetch(address, options);
  };
  const options = { ...(DPoP && { DPoP }), ...insecure, [oauth.customFetch]: fetched };
  try {
    const request = () =>
      oauth.protectedResourceRequest(token, method, new URL(url), undefined, undefined, options);
    const answer = await again(request);
    return { status: answer.status, said: await answer.text(), calls: proofs.length, proof: proofs.at(-1) };
  } catch (error) {
    if (!(error instanceof oauth.WWWAuthenticateChallengeError)) throw error;
    return { status: error.response.status, challenges: error.cause, calls: proofs.length };
  }
}

const [own, other] = [await keys(), await keys()];
const { access_token: bound, token_type } = await token(own);
const { access_token: unbound } = await token(undefined);
const good = await call(bound, own);
const replayed = await fetch(url, { headers: { authorization: `DPoP ${bound}`, dpop: good.proof ?? '' } });
console.log(JSON.stringify({
  token_type,
  good,
  posted: await call(bound, own, withNonce, 'POST'),
  stolen: await call(bound, other),
  bearer: await call(bound, undefined),
  unbound: await call(unbound, undefined),
  unbound_with_proof: await call(unbound, own),
  replayed: { status: replayed.status, challenge: replayed.headers.get('www-authenticate') },
}));

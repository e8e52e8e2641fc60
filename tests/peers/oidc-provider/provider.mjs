// An OpenID provider that nobody here wrote (npm's oidc-provider), on 127.0.0.1, for one test.
//
//     tests/peers/install && cd target/peers/oidc-provider && node ../../../tests/peers/oidc-provider/provider.mjs '{}'
//
// It prints `{"issuer": …}` when it listens, and ends when its input does. The argument overrides the options below.
// Whoever `login_hint` names is logged in and consents to everything, without a page; without it they refuse. With the
// option `pages`, the provider has its own pages in place of that.
// `POST /control/options` overrides options from then on, `POST /control/rotate` signs with new keys (`{"keep": false}`
// forgets the old ones), `POST /control/forget` revokes all tokens, `GET /control/events` lists what was granted, refused and revoked, and `GET /control/spent` each
// refresh token that was spent, by the client and the query parameter `by` of the token endpoint's URL.
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const options = {
  host: '127.0.0.1',
  port: 0,
  // Whether users log in and consent on pages.
  pages: false,
  // Whether clients can register themselves (OpenID Connect Dynamic Client Registration).
  registration: false,
  // Scopes that a client may register for, besides OpenID Connect's.
  scopes: [],
  // By how many seconds the provider's clock is ahead.
  ahead: 0,
  // Client metadata of OpenID Connect Dynamic Client Registration.
  clients: [],
  // What tokens may be for: `{ "<uri>": { audience, scope, format: "jwt" | "opaque", alg, ttl } }`.
  resources: {},
  ttl: { AccessToken: 3600, ClientCredentials: 3600, IdToken: 3600, RefreshToken: 86400 },
  rotateRefreshTokens: true,
  // For how many seconds a spent refresh token is accepted again, by client.
  grace: {},
  // How many milliseconds the token endpoint takes to answer, after it has done what was asked.
  delay: 0,
  // Whether access tokens name the log-in (`sid`).
  sid: false,
  // Sender-constrained tokens: `{ nonce: true }` asks for a nonce in each proof, `nonces: false` has none at
  // all, and `algorithms` are those of proofs.
  dpop: null,
  // Clients may be known by a URL (Client ID Metadata Documents): this origin has the path of each.
  documents: null,
  // `{ key, cert, ca }` in PEM: https, and clients that authenticate with a certificate. With `aliases: true` only the
  // endpoints of `mtls_endpoint_aliases`, on another port, ask for a certificate.
  tls: null,
  ...JSON.parse(process.argv[2] ?? '{}'),
};

const Now = Date;
globalThis.Date = class extends Now {
  constructor(...when) {
    super(...(when.length ? when : [Date.now()]));
  }

  static now() {
    return Now.now() + options.ahead * 1000;
  }
};
// Standard output is for the one line.
console.info = console.warn = () => {};
// oidc-provider 9 uses it, and Node has it since 22.
URL.parse ??= (url, base) => (URL.canParse(url, base) ? new URL(url, base) : null);

// The packages are in the working directory, not beside this file.
const packages = createRequire(path.resolve('package.json'));
const load = (name) => import(pathToFileURL(packages.resolve(name)).href);
const { Provider, errors } = await load('oidc-provider');
const { checkDpopRequired, checkMtlsCert, validateDpop } = await load('oidc-provider/lib/helpers/grants.js');
const { applyDpopBinding } = await load('oidc-provider/lib/helpers/grant_common.js');
const { createLocalJWKSet, jwtVerify } = await load('jose');

const TYPE = 'urn:ietf:params:oauth:token-type:';
const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const GRANTS = ['authorization_code', 'refresh_token', 'client_credentials', TOKEN_EXCHANGE];

const asking = () => https.createServer({ ...options.tls, requestCert: true, rejectUnauthorized: false });
const listening = async (server, port) => {
  await new Promise((resolve) => server.listen(port, options.host, resolve));
  return `${options.tls ? 'https' : 'http'}://${options.host}:${server.address().port}`;
};
const server = !options.tls ? http.createServer() : options.tls.aliases ? https.createServer(options.tls) : asking();
const issuer = await listening(server, options.port);
const mtlsServer = options.tls?.aliases ? asking() : null;
const alias = mtlsServer && await listening(mtlsServer, 0);

const events = [];
const spent = [];
const rows = new Map();
let keys = newKeys();
let provider = newProvider();

const answerRequest = async (request, response) => {
  const { pathname } = new URL(request.url, issuer);
  const answer = (value) => response.setHeader('content-type', 'application/json').end(JSON.stringify(value));
  try {
    if (!options.pages && pathname.startsWith('/interaction/')) {
      await interact(request, response);
    } else if (pathname === '/control/rotate') {
      const { keep = true } = await body(request);
      keys = [...newKeys(), ...(keep ? keys : [])];
      provider = newProvider();
      answer({ kids: keys.map(({ kid }) => kid) });
    } else if (pathname === '/control/forget') {
      for (const [key, { model }] of rows) if (model.endsWith('Token')) rows.delete(key);
      answer({});
    } else if (pathname === '/control/options') {
      answer(Object.assign(options, await body(request)));
    } else if (pathname === '/control/events') {
      answer(events);
    } else if (pathname === '/control/spent') {
      answer(spent);
    } else {
      provider.callback()(request, response);
    }
  } catch (error) {
    console.error(error);
    response.writeHead(500).end();
  }
};
server.on('request', answerRequest);
mtlsServer?.on('request', answerRequest);
process.stdin.on('end', () => process.exit()).resume();
console.log(JSON.stringify({ issuer, alias, kids: keys.map(({ kid }) => kid) }));

async function body(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text ? JSON.parse(text) : {};
}

function newKeys() {
  const pairs = {
    RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    EdDSA: generateKeyPairSync('ed25519'),
  };
  return Object.entries(pairs).map(([alg, { privateKey }]) => {
    const jwk = privateKey.export({ format: 'jwk' });
    const kid = createHash('sha256').update(jwk.n ?? jwk.x).digest('base64url').slice(0, 12);
    return { ...jwk, alg, use: 'sig', kid };
  });
}

// What one provider kept, the next one with other keys still has.
function adapter(model) {
  const name = (id) => `${model}:${id}`;
  const where = async (test) => [...rows.values()].find((row) => row.model === model && test(row.payload))?.payload;
  return {
    upsert: async (id, payload) => void rows.set(name(id), { model, payload }),
    find: async (id) => forgiven(model, rows.get(name(id))?.payload),
    findByUid: (uid) => where((payload) => payload.uid === uid),
    findByUserCode: (code) => where((payload) => payload.userCode === code),
    destroy: async (id) => void rows.delete(name(id)),
    consume: async (id) => void (rows.get(name(id)).payload.consumed ??= Math.floor(Date.now() / 1000)),
    revokeByGrantId: async (grantId) => {
      for (const [key, row] of rows) if (row.model === model && row.payload.grantId === grantId) rows.delete(key);
    },
  };
}

function forgiven(model, payload) {
  const grace = (model === 'RefreshToken' && options.grace[payload?.clientId]) || 0;
  const isForgiven = payload?.consumed && Date.now() / 1000 < payload.consumed + grace;
  return isForgiven ? { ...payload, consumed: undefined } : payload;
}

function newProvider() {
  const ttl = (name) => (_ctx, token) => token.resourceServer?.accessTokenTTL ?? options.ttl[name];
  const certificate = (ctx) => ctx.req.socket.getPeerX509Certificate?.();
  const made = new Provider(issuer, {
    adapter,
    // Its own dispatcher refuses addresses of loopback.
    fetch: (url, { dispatcher, ...init }) => options.documents
      ? fetch(new URL(new URL(url).pathname, options.documents), init)
      : fetch(url, { dispatcher, ...init }),
    clients: options.clients.map((client) => ({
      redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: GRANTS,
      ...client,
    })),
    clientAuthMethods: [
      'none', 'client_secret_basic', 'client_secret_post', 'private_key_jwt',
      ...(options.tls ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
    ],
    jwks: { keys },
    ...(options.dpop?.algorithms && { enabledJWA: { dPoPSigningAlgValues: options.dpop.algorithms } }),
    ...(alias && {
      discovery: {
        mtls_endpoint_aliases: {
          token_endpoint: `${alias}/token`,
          introspection_endpoint: `${alias}/token/introspection`,
        },
      },
    }),
    scopes: ['openid', 'offline_access', ...options.scopes],
    claims: { openid: ['sub'], profile: ['name'], email: ['email'] },
    conformIdTokenClaims: false,
    findAccount: (_ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `User ${id}`, email: `${id}@example.com` }),
    }),
    ...(!options.pages && { interactions: { url: (_ctx, { uid }) => `/interaction/${uid}` } }),
    extraTokenClaims: (ctx) => ({ ...(options.sid && { sid: ctx.oidc.entities.Grant?.jti }), ...ctx.state.claims }),
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    expiresWithSession: () => false,
    rotateRefreshToken: () => options.rotateRefreshTokens,
    ttl: Object.fromEntries(
      ['AccessToken', 'ClientCredentials', 'IdToken', 'RefreshToken'].map((name) => [name, ttl(name)]),
    ),
    features: {
      devInteractions: { enabled: options.pages },
      registration: { enabled: options.registration },
      clientIdMetadataDocument: { enabled: Boolean(options.documents) },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (_ctx, _client, oneOf) => oneOf?.[0],
        useGrantedResource: () => true,
        getResourceServerInfo: (_ctx, uri) => resourceServer(uri),
      },
      dPoP: options.dpop
        ? {
          enabled: true,
          nonceSecret: options.dpop.nonces === false ? undefined : randomBytes(32),
          requireNonce: () => Boolean(options.dpop.nonce),
        }
        : { enabled: false },
      mTLS: options.tls
        ? {
          enabled: true,
          certificateBoundAccessTokens: true,
          selfSignedTlsClientAuth: true,
          tlsClientAuth: true,
          getCertificate: certificate,
          certificateAuthorized: (ctx) => ctx.req.socket.authorized,
          certificateSubjectMatches: (ctx, property, expected) =>
            property === 'tls_client_auth_subject_dn'
              ? certificate(ctx).subject === expected
              : (certificate(ctx).subjectAltName ?? '').split(', ').some((name) => name.endsWith(`:${expected}`)),
        }
        : { enabled: false },
    },
  });
  const several = ['audience', 'resource'];
  const parameters = [
    'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type', 'scope',
  ];
  made.use(async (ctx, next) => {
    await next();
    if (ctx.path === '/token') await setTimeout(options.delay);
  });
  made.on('grant.success', ({ oidc: { client, entities }, query }) => {
    const refreshToken = entities.RotatedRefreshToken?.jti;
    if (refreshToken) spent.push({ refreshToken, client: client.clientId, by: query.by });
  });
  made.registerGrantType(TOKEN_EXCHANGE, exchange, [...parameters, ...several], several);
  for (const event of ['grant.success', 'grant.error', 'grant.revoked', 'introspection.error', 'server_error']) {
    made.on(event, (ctx, error) => {
      if (event === 'server_error') console.error(error);
      const [client, grant] = [ctx.oidc.client?.clientId, ctx.oidc.params?.grant_type];
      events.push({ event, client, grant, error: error?.message, why: error?.error_description });
    });
  }
  return made;
}

function resourceServer(uri) {
  const resource = options.resources[uri];
  if (!resource) throw new errors.InvalidTarget();
  return {
    audience: resource.audience ?? uri,
    scope: resource.scope ?? 'read write',
    accessTokenTTL: resource.ttl,
    accessTokenFormat: resource.format ?? 'jwt',
    jwt: { sign: { alg: resource.alg ?? 'RS256' } },
  };
}

async function interact(request, response) {
  const { params, prompt, session, grantId } = await provider.interactionDetails(request, response);
  let result = { error: 'access_denied', error_description: 'the user refused' };
  if (prompt.name === 'login' && params.login_hint) {
    result = { login: { accountId: params.login_hint, acr: params.acr_values?.split(' ')[0], amr: ['pwd'] } };
  } else if (prompt.name === 'consent') {
    const owner = { accountId: session.accountId, clientId: params.client_id };
    const grant = (grantId && await provider.Grant.find(grantId)) || new provider.Grant(owner);
    grant.addOIDCScope(params.scope);
    for (const uri of [params.resource ?? []].flat()) grant.addResourceScope(uri, params.scope);
    result = { consent: { grantId: await grant.save() } };
  }
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

// RFC 8693.
async function exchange(ctx) {
  const { client, params, provider } = ctx.oidc;
  const proof = await validateDpop(provider, ctx);
  const certificate = checkMtlsCert(provider, ctx);
  checkDpopRequired(provider, ctx, proof);
  const issued = params.requested_token_type ?? `${TYPE}access_token`;
  if (![`${TYPE}access_token`, `${TYPE}jwt`].includes(issued)) {
    throw new errors.InvalidRequest('requested_token_type is not supported');
  }
  const subject = await holder('subject_token', params, client);
  const actor = params.actor_token && await holder('actor_token', params, client);

  const targets = [params.resource ?? [], params.audience ?? []].flat();
  const uris = targets.map((target) =>
    Object.entries(options.resources).find(([uri, { audience }]) => target === uri || target === audience)?.[0]);
  if (uris.includes(undefined) || new Set(uris).size > 1) throw new errors.InvalidTarget();

  const token = new provider.AccessToken({ accountId: subject.sub, client, gty: 'token_exchange', scope: params.scope });
  if (uris.length) {
    token.resourceServer = new provider.ResourceServer(uris[0], resourceServer(uris[0]));
    const refused = [...token.scopes].filter((scope) => !token.resourceServer.scopes.has(scope));
    if (refused.length) throw new errors.InvalidScope('requested scope is not allowed', refused.join(' '));
  }
  if (certificate) token.setThumbprint('x5t', certificate);
  await applyDpopBinding(provider, ctx, proof, token);
  const before = subject.act && { act: subject.act };
  ctx.state.claims = actor ? { act: { sub: actor.sub, ...before } } : before;
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: issued,
    token_type: token.tokenType,
    expires_in: token.expiration,
    scope: token.scope,
  };
}

// Who the token stands for: its claims. What is not accepted is an invalid request (RFC 8693 §2.2.2).
async function holder(name, params, client) {
  const [token, type] = [params[name], params[`${name}_type`]?.replace(TYPE, '')];
  const refused = () => new errors.InvalidRequest(`${name} is not valid`);
  if (!token || !['access_token', 'id_token', 'jwt'].includes(type)) throw refused();
  if (type === 'access_token' && token.split('.').length !== 3) {
    const found = await provider.AccessToken.find(token);
    if (!found) throw refused();
    return { ...found.extra, sub: found.accountId };
  }
  const expected = { access_token: { typ: 'at+jwt' }, id_token: { audience: client.clientId }, jwt: {} }[type];
  const own = createLocalJWKSet({ keys: keys.map(({ kty, crv, x, y, n, e, alg, kid }) => ({ kty, crv, x, y, n, e, alg, kid })) });
  const { payload } = await jwtVerify(token, own, { issuer, ...expected }).catch(() => { throw refused(); });
  return payload;
}

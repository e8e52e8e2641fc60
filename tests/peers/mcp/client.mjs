// MCP's TypeScript SDK as a client that logs in by itself: it reads the challenge, the metadata of the resource and of the
// issuer, registers itself, and gets tokens by authorization code with PKCE.
//
//     node client.mjs v2 '{"github": "https://gateway.example.com/github"}'
//
// `v1` is the package `@modelcontextprotocol/sdk`, and `v2` is `@modelcontextprotocol/client`. It prints a line of JSON for
// each step: `{"authorize": URL}` expects where the browser ended as the next line of the input, `{"server", "answer"}` is
// what the tool `whoami` answered, and after `{"done": true}` any line lets it call all tools once more. The end of the
// input ends it.
import { createRequire } from 'node:module';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [version, servers] = [process.argv[2], JSON.parse(process.argv[3])];
const REDIRECT_URI = 'http://127.0.0.1/callback';

// The packages are in the working directory, not beside this file.
const packages = createRequire(path.resolve('package.json'));
const load = (name) => import(pathToFileURL(packages.resolve(name)).href);
const { Client, StreamableHTTPClientTransport, UnauthorizedError } = version === 'v1'
  ? {
    ...await load('@modelcontextprotocol/sdk/client/index.js'),
    ...await load('@modelcontextprotocol/sdk/client/streamableHttp.js'),
    ...await load('@modelcontextprotocol/sdk/client/auth.js'),
  }
  : await load('@modelcontextprotocol/client');

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (step) => console.log(JSON.stringify(step));
const next = async () => (await lines.next()).value;

class Login {
  redirectUrl = REDIRECT_URI;
  clientMetadata = {
    client_name: 'MCP client',
    redirect_uris: [REDIRECT_URI],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  };
  kept = {};
  state = () => (this.kept.state = crypto.randomUUID());
  clientInformation = () => this.kept.client;
  saveClientInformation = (client) => void (this.kept.client = client);
  tokens = () => this.kept.tokens;
  saveTokens = (tokens) => void (this.kept.tokens = tokens);
  codeVerifier = () => this.kept.verifier;
  saveCodeVerifier = (verifier) => void (this.kept.verifier = verifier);
  discoveryState = () => this.kept.discovery;
  saveDiscoveryState = (discovery) => void (this.kept.discovery = discovery);
  redirectToAuthorization = (url) => void (this.kept.authorize = url.href);
}

async function connect(url) {
  const authProvider = new Login();
  for (let attempt = 0; ; attempt++) {
    const client = new Client({ name: 'client.mjs', version: '1' });
    const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider });
    try {
      await client.connect(transport);
      return { client, transport };
    } catch (error) {
      if (attempt || !(error instanceof UnauthorizedError)) throw error;
      say({ authorize: authProvider.kept.authorize });
      const parameters = new URL(JSON.parse(await next())).searchParams;
      if (parameters.get('state') !== authProvider.kept.state) throw new Error('state');
      await transport.finishAuth(version === 'v1' ? parameters.get('code') : parameters);
    }
  }
}

const sessions = new Map();
for (const [server, url] of Object.entries(servers)) sessions.set(server, await connect(url));
do {
  for (const [server, { client }] of sessions) {
    const { tools } = await client.listTools();
    const { name } = tools.find(({ name }) => name === 'whoami');
    const { content } = await client.callTool({ name, arguments: {} });
    say({ server, answer: content[0].text });
  }
  say({ done: true });
} while (await next() !== undefined);
for (const { client, transport } of sessions.values()) {
  await transport.terminateSession?.();
  await client.close();
}
process.exit();

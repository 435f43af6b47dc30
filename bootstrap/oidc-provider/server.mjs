#!/usr/bin/env node
// Runs oidc-provider on one loopback port. Theirs: the protocol. Ours: the listener,
// the store, the keys, and what the configuration file in the only argument says
// (written by bootstrap/harness/oidcprovider.go):
//
//   port            where to listen on 127.0.0.1
//   issuer          its URL
//   tls             PEM: key, cert, clientCA; absent for http without RFC 8705. With
//                   aliasPort, certificates are asked for there alone (RFC 8705 5)
//   clients         RFC 7591 metadata
//   scopes          that exist besides those of the clients and resources
//   resources       RFC 8707: id, audience, scopes, format (opaque or jwt), ttl
//   accessTokenTTL  seconds, where a resource has none of its own
//   dpopNonceSecret 32 bytes in base64; with it DPoP proofs need a nonce
//   rotateRefresh   whether each refresh ends the refresh token for a new one
//   detailTypes     RFC 9396: by type, the members that the server puts on top
import * as crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';

import { errors, Provider } from 'oidc-provider';

import { Memory } from './memory.mjs';
import * as mtls from './mtls.mjs';

const settings = JSON.parse(readFileSync(process.argv[2], 'utf8'));

const provider = new Provider(settings.issuer, {
  adapter: Memory,
  clients: settings.clients,
  clientAuthMethods: [
    'client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none',
    ...(settings.tls ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
  ],
  discovery: { mtls_endpoint_aliases: endpointAliases(settings.tls?.aliasPort) },
  cookies: { keys: [crypto.randomBytes(32).toString('hex')] },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true }, // a login and consent page that take anybody
    dPoP: dPoP(settings.dpopNonceSecret),
    introspection: { enabled: true },
    mTLS: settings.tls ? {
      enabled: true, certificateBoundAccessTokens: true, selfSignedTlsClientAuth: true, tlsClientAuth: true, ...mtls,
    } : { enabled: false },
    resourceIndicators: { enabled: true, getResourceServerInfo: resourceServer },
    revocation: { enabled: true },
    richAuthorizationRequests: richAuthorizationRequests(settings.detailTypes),
  },
  jwks: { keys: [signingKey('rsa', { modulusLength: 2048 }, 'RS256'), signingKey('ec', { namedCurve: 'P-256' }, 'ES256')] },
  rotateRefreshToken: () => settings.rotateRefresh,
  scopes: knownScopes(),
  ttl: { AccessToken: accessTokenTTL, ClientCredentials: accessTokenTTL },
});

function dPoP(nonceSecret) {
  if (nonceSecret === undefined) return { enabled: true };
  return { enabled: true, nonceSecret: Buffer.from(nonceSecret, 'base64'), requireNonce: () => true };
}

function endpointAliases(port) {
  if (port === undefined) return undefined;
  const url = `https://127.0.0.1:${port}/token`;
  return { token_endpoint: url, introspection_endpoint: `${url}/introspection`, revocation_endpoint: `${url}/revocation` };
}

function resourceServer(ctx, id) {
  const resource = settings.resources.find((known) => known.id === id);
  if (!resource) throw new errors.InvalidTarget();
  return {
    audience: resource.audience,
    scope: resource.scopes.join(' '),
    accessTokenFormat: resource.format,
    accessTokenTTL: resource.ttl,
  };
}

// Grants what is asked for. RFC 9396 7.1 lets a server enrich it, which detailTypes is for.
function richAuthorizationRequests(types) {
  const granted = (ctx, source) => {
    const { authorization_details: requested } = ctx.oidc.params;
    if (requested === undefined) return source?.rar;
    return JSON.parse(requested).map((detail) => ({ ...detail, ...types[detail.type] }));
  };
  return {
    enabled: Object.keys(types).length > 0,
    types: Object.fromEntries(Object.keys(types).map((type) => [type, { validate() {} }])),
    authorizationDetailsForGrantSource: granted,
    authorizationDetailsForAccessToken: (ctx, token, source) => granted(ctx, source),
    authorizationDetailsForIntrospection: (ctx, token) => token.rar,
  };
}

function signingKey(type, options, alg) {
  const { privateKey } = crypto.generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), kid: crypto.randomUUID(), use: 'sig', alg };
}

// A client may only be registered with scopes that exist.
function knownScopes() {
  const ofClients = settings.clients.flatMap(({ scope }) => scope?.split(' ') ?? []);
  const ofResources = settings.resources.flatMap(({ scopes }) => scopes);
  return [...new Set(['openid', 'offline_access', ...settings.scopes, ...ofClients, ...ofResources])];
}

function accessTokenTTL(ctx, token) {
  return token.resourceServer?.accessTokenTTL ?? settings.accessTokenTTL;
}

provider.on('server_error', (ctx, error) => console.error(ctx.method, ctx.path, error));
for (const refusal of ['grant.error', 'introspection.error', 'revocation.error']) {
  provider.on(refusal, (ctx, error) => console.error(ctx.method, ctx.path, error.message, error.error_description, error.error_detail ?? ''));
}

// A certificate is asked for, not demanded: whether it will do is the provider's affair.
function createServer(requestCert) {
  if (!settings.tls) return http.createServer(provider.callback());
  const { key, cert, clientCA: ca } = settings.tls;
  return https.createServer({ key, cert, ca, requestCert, rejectUnauthorized: false }, provider.callback());
}

const { port, issuer, tls: { aliasPort } = {} } = settings;
if (aliasPort !== undefined) createServer(true).listen(aliasPort, '127.0.0.1');
createServer(aliasPort === undefined).listen(port, '127.0.0.1', () => console.log('ready', issuer));

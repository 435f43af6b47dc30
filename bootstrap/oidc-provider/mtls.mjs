// What RFC 8705 leaves to the deployment, and oidc-provider to its user: to get the
// client certificate from the connection, and to compare it with what is registered.

export function getCertificate(ctx) {
  return ctx.socket.getPeerX509Certificate?.();
}

// Only says that the chain is good; the connection was accepted without that, because
// self-signed certificates have none.
export function certificateAuthorized(ctx) {
  return ctx.socket.authorized === true;
}

export function certificateSubjectMatches(ctx, property, expected) {
  const certificate = getCertificate(ctx);
  switch (property) {
    case 'tls_client_auth_subject_dn':
      return distinguishedName(certificate) === expected;
    case 'tls_client_auth_san_dns':
      return alternativeNames(certificate).includes(`DNS:${expected}`);
    case 'tls_client_auth_san_uri':
      return alternativeNames(certificate).includes(`URI:${expected}`);
    case 'tls_client_auth_san_ip':
      return certificate.checkIP(expected) !== undefined;
    case 'tls_client_auth_san_email':
      return alternativeNames(certificate).includes(`email:${expected}`);
    default:
      return false;
  }
}

// RFC 4514: the last RDN comes first. Node escapes values the same way, and gives one
// RDN per line.
function distinguishedName(certificate) {
  return certificate.subject.split('\n').reverse().join(',');
}

function alternativeNames(certificate) {
  return certificate.subjectAltName?.split(', ') ?? [];
}

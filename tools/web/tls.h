/* tls: the certificate of a page that others in the network may open. */
#ifndef CAIRN_TOOLS_WEB_TLS_H
#define CAIRN_TOOLS_WEB_TLS_H

#include <gnutls/x509.h>
#include <stdbool.h>

struct err;

#define TLS_NAME_BYTES 256

struct tls {
	char *chain, *key; /* PEM; NULL: no TLS */
	gnutls_x509_crt_t certificate; /* the first of the chain */
};

/* Read a certificate, with the chain behind it, and its key. Returns 0; -EINVAL, also if others may read the key, or if
 * the two do not belong together; -errno. */
int tls_load(const char *certificate, const char *key, struct tls *ret, struct err *e);
/* Is the certificate for this name or address? */
bool tls_names(const struct tls *t, const char *host);
/* Copy the first DNS name of the certificate that is no pattern. Returns false if it has none. */
bool tls_first_name(const struct tls *t, char name[TLS_NAME_BYTES]);

#endif

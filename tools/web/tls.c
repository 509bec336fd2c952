#include "tools/web/tls.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define FILE_MAX 65536

static int key_check(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_set_errno(e, -errno, "--key %s", path);
	if (st.st_mode & 077)
		return err_set(e, -EINVAL, ERR_INVALID, "--key %s: others may read or change this file; make it yours alone: chmod 600 %s", path, path);
	return 0;
}

static gnutls_datum_t datum(char *text)
{
	return (gnutls_datum_t){ (unsigned char *)text, (unsigned)strlen(text) };
}

static int pair_check(const char *certificate, const char *key, const struct tls *t, struct err *e)
{
	gnutls_datum_t chain = datum(t->chain), secret = datum(t->key);
	gnutls_certificate_credentials_t both;
	int r = gnutls_certificate_allocate_credentials(&both);

	if (r < 0)
		return err_set(e, -ENOMEM, ERR_GENERIC, "%s", gnutls_strerror(r));
	r = gnutls_certificate_set_x509_key_mem(both, &chain, &secret, GNUTLS_X509_FMT_PEM);
	gnutls_certificate_free_credentials(both);
	return r < 0 ? err_set(e, -EINVAL, ERR_INVALID, "--certificate %s and --key %s: %s", certificate, key, gnutls_strerror(r)) : 0;
}

static int certificate_parse(const char *path, struct tls *t, struct err *e)
{
	gnutls_datum_t chain = datum(t->chain);
	int r = gnutls_x509_crt_init(&t->certificate);

	if (r >= 0)
		r = gnutls_x509_crt_import(t->certificate, &chain, GNUTLS_X509_FMT_PEM);
	if (r < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "--certificate %s: %s", path, gnutls_strerror(r));
	if (gnutls_x509_crt_get_expiration_time(t->certificate) < time(NULL))
		return err_set(e, -EINVAL, ERR_INVALID, "--certificate %s has expired: no browser accepts it; get a new one", path);
	return 0;
}

int tls_load(const char *certificate, const char *key, struct tls *ret, struct err *e)
{
	size_t len;
	int r = key_check(key, e);

	if (!r)
		r = file_read(certificate, FILE_MAX, &ret->chain, &len, e);
	if (!r)
		r = file_read(key, FILE_MAX, &ret->key, &len, e);
	if (!r)
		r = certificate_parse(certificate, ret, e);
	return r < 0 ? r : pair_check(certificate, key, ret, e);
}

bool tls_names(const struct tls *t, const char *host)
{
	return gnutls_x509_crt_check_hostname(t->certificate, host) != 0;
}

bool tls_first_name(const struct tls *t, char name[TLS_NAME_BYTES])
{
	for (unsigned i = 0;; i++) {
		size_t size = TLS_NAME_BYTES;
		int kind = gnutls_x509_crt_get_subject_alt_name(t->certificate, i, name, &size, NULL);

		if (kind == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
			return false;
		if (kind == GNUTLS_SAN_DNSNAME && !strchr(name, '*'))
			return true;
	}
}

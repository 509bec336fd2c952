/* cairn-webhook: deliver one event of a web hook. cairnd starts it (api/policy/web_hooks.h) with a file on standard
 * input that has a JSON object: url, secret, id, body, and private (true: any address may be reached). It makes one
 * HTTP request, in a sandbox, without redirects and proxies, writes the outcome as a line to standard output, and
 * ends with 0: delivered; 1: refused, so that a repetition is useless; 75 (EX_TEMPFAIL): try again later.
 *
 * The request is a POST of the body with the headers of the specification Standard Webhooks: webhook-id,
 * webhook-timestamp (seconds since 1970, of this attempt), and webhook-signature: "v1," and the base64 of the
 * HMAC-SHA256 of ID.TIMESTAMP.BODY. The key is the secret's text, or what follows "whsec_" in it, base64-decoded.
 *
 * With SSL_CERT_FILE in the environment, the authorities in that file are trusted instead of the system's. */
#include "api/wire/json.h"
#include "base/base64.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/oom.h"
#include "base/program.h"
#include "base/public_address.h"
#include "base/utf8.h"
#include "base/util.h"
#include "tools/webhook/sandbox.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <nettle/hmac.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_MS 5000
#define ATTEMPT_MS 10000
#define INPUT_BYTES_MAX (256 * 1024)
#define ANSWER_BYTES_MAX (64 * 1024)
#define AUTHORITIES_BYTES_MAX (4 * MIB)
#define KEY_PREFIX "whsec_"
/* Results of OpenSSL's verification: X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT to _UNABLE_TO_VERIFY_LEAF_SIGNATURE. */
#define UNKNOWN_FIRST 18
#define UNKNOWN_LAST 21

struct delivery {
	struct json_object *o; /* owned */
	const char *url, *secret, *id, *body;
	bool is_private;
	char *authorities; /* owned; NULL: the system's */
	size_t authorities_bytes;
	char refused[INET6_ADDRSTRLEN]; /* an address that may not be reached; "": none */
	bool tried; /* another address of the name */
	size_t answer_bytes;
};

/* Print the outcome in one line. Returns the exit status. */
__attribute__((format(printf, 2, 3))) static int outcome(int status, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text[strcspn(text, "\r\n")] = 0;
	utf8_clean(text);
	printf("%s\n", text);
	fflush(stdout);
	return status;
}

static int delivery_read(struct delivery *d)
{
	CLEANUP_FREE char *text = must_alloc(malloc(INPUT_BYTES_MAX + 1));
	struct err e;
	size_t len;

	if (lseek(STDIN_FILENO, 0, SEEK_SET) < 0)
		return -errno;
	len = fread(text, 1, INPUT_BYTES_MAX, stdin);
	text[len] = 0;
	if (js_parse(text, len, "standard input", &d->o, &e) < 0)
		return -EINVAL;
	d->url = js_get_str(d->o, "url");
	d->secret = js_get_str(d->o, "secret");
	d->id = js_get_str(d->o, "id");
	d->body = js_get_str(d->o, "body");
	d->is_private = js_get_bool(d->o, "private", false);
	return d->url && d->secret && d->id && d->body ? 0 : -EINVAL;
}

/* Read the file before the sandbox forbids it. */
static int authorities_read(struct delivery *d, struct err *e)
{
	const char *path = getenv("SSL_CERT_FILE");

	return path && path[0] ? file_read(path, AUTHORITIES_BYTES_MAX, &d->authorities, &d->authorities_bytes, e) : 0;
}

/* ---- signature ---- */

/* Return the header with the signature, owned by the caller. */
static char *signature_header(const struct delivery *d, long long now)
{
	CLEANUP_FREE char *decoded = NULL, *code = NULL;
	const char *key = d->secret;
	uint8_t digest[SHA256_DIGEST_SIZE];
	struct hmac_sha256_ctx h;
	size_t len = strlen(key);
	char *header, stamp[32];

	if (!strncmp(key, KEY_PREFIX, strlen(KEY_PREFIX)) && (decoded = base64_decode(key + strlen(KEY_PREFIX), &len)))
		key = decoded;
	len = key == decoded ? len : strlen(key);
	snprintf(stamp, sizeof(stamp), ".%lld.", now);
	hmac_sha256_set_key(&h, len, (const uint8_t *)key);
	hmac_sha256_update(&h, strlen(d->id), (const uint8_t *)d->id);
	hmac_sha256_update(&h, strlen(stamp), (const uint8_t *)stamp);
	hmac_sha256_update(&h, strlen(d->body), (const uint8_t *)d->body);
	hmac_sha256_digest(&h, sizeof(digest), digest);
	code = must_alloc(base64_encode(digest, sizeof(digest)));
	if (asprintf(&header, "webhook-signature: v1,%s", code) < 0)
		abort();
	return header;
}

static struct curl_slist *header_add(struct curl_slist *list, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static struct curl_slist *header_add(struct curl_slist *list, const char *fmt, ...)
{
	CLEANUP_FREE char *text = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		abort();
	return must_alloc(curl_slist_append(list, text));
}

static struct curl_slist *headers_make(const struct delivery *d)
{
	long long now = (long long)time(NULL);
	CLEANUP_FREE char *signature = signature_header(d, now);
	struct curl_slist *list = NULL;

	list = header_add(list, "Content-Type: application/json");
	list = header_add(list, "Expect:");
	list = header_add(list, "webhook-id: %s", d->id);
	list = header_add(list, "webhook-timestamp: %lld", now);
	return header_add(list, "%s", signature);
}

/* ---- the request ---- */

/* Open the socket for an address of the name, or refuse that address. Earlier and later look-ups of the name do not
 * matter. */
static curl_socket_t socket_open(void *opaque, curlsocktype purpose, struct curl_sockaddr *a)
{
	struct delivery *d = opaque;
	const struct sockaddr_in *v4 = (const void *)&a->addr;
	const struct sockaddr_in6 *v6 = (const void *)&a->addr;

	if (purpose != CURLSOCKTYPE_IPCXN || (a->family != AF_INET && a->family != AF_INET6))
		return CURL_SOCKET_BAD;
	if (!d->is_private && !address_is_public(&a->addr)) {
		inet_ntop(a->family, a->family == AF_INET ? (const void *)&v4->sin_addr : (const void *)&v6->sin6_addr, d->refused,
			sizeof(d->refused));
		return CURL_SOCKET_BAD;
	}
	d->tried = true;
	return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* Leave the answer out, and end an endless one. */
static size_t answer_take(char *data, size_t size, size_t n, void *opaque)
{
	struct delivery *d = opaque;

	(void)data;
	d->answer_bytes += size * n;
	return d->answer_bytes > ANSWER_BYTES_MAX ? 0 : size * n;
}

static int authorities_set(CURL *c, const struct delivery *d)
{
	struct curl_blob blob = { .data = d->authorities, .len = d->authorities_bytes, .flags = CURL_BLOB_NOCOPY };
	int bad = curl_easy_setopt(c, CURLOPT_CAPATH, NULL);

	return bad | (int)curl_easy_setopt(c, CURLOPT_CAINFO_BLOB, &blob);
}

static int options_set(CURL *c, struct delivery *d, struct curl_slist *headers, char *why)
{
	int bad = 0;

	bad |= curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
	bad |= curl_easy_setopt(c, CURLOPT_URL, d->url);
	bad |= curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	bad |= curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
	bad |= curl_easy_setopt(c, CURLOPT_PROXY, "");
	bad |= curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	bad |= curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
	bad |= curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)ATTEMPT_MS);
	bad |= curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	bad |= curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, socket_open);
	bad |= curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, d);
	bad |= curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, answer_take);
	bad |= curl_easy_setopt(c, CURLOPT_WRITEDATA, d);
	bad |= curl_easy_setopt(c, CURLOPT_USERAGENT, "cairn");
	bad |= curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
	bad |= curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)strlen(d->body));
	bad |= curl_easy_setopt(c, CURLOPT_POSTFIELDS, d->body);
	if (d->authorities)
		bad |= authorities_set(c, d);
	return bad ? -EINVAL : 0;
}

/* Return whether a failed transfer may work later. */
static bool is_passing(CURLcode r)
{
	return r != CURLE_UNSUPPORTED_PROTOCOL && r != CURLE_URL_MALFORMAT && r != CURLE_OUT_OF_MEMORY && r != CURLE_BAD_FUNCTION_ARGUMENT;
}

/* Returns the end of an error: the remedy for a certificate that no trusted authority has signed; "" after another
 * error. */
static const char *certificate_remedy(CURL *c, CURLcode r)
{
	long found = 0;

	if (r == CURLE_PEER_FAILED_VERIFICATION)
		curl_easy_getinfo(c, CURLINFO_SSL_VERIFYRESULT, &found);
	return found < UNKNOWN_FIRST || found > UNKNOWN_LAST ? "" : "; to trust its authority, add that to the host's certificates, or "
		"to the file that SSL_CERT_FILE names in the environment of cairnd";
}

static int outcome_of_status(long status)
{
	if (status >= 200 && status < 300)
		return outcome(0, "HTTP %ld", status);
	if (status >= 300 && status < 400)
		return outcome(1, "HTTP %ld: redirects are not followed; give the URL that it leads to", status);
	return outcome(status >= 500 || status == 408 || status == 425 || status == 429 ? EX_TEMPFAIL : 1, "HTTP %ld", status);
}

static int deliver(struct delivery *d)
{
	struct curl_slist *headers = headers_make(d);
	CURL *c = must_alloc(curl_easy_init());
	char why[CURL_ERROR_SIZE] = "";
	CURLcode r = CURLE_BAD_FUNCTION_ARGUMENT;
	long status = 0;
	int code;

	if (options_set(c, d, headers, why) == 0)
		r = curl_easy_perform(c);
	curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
	if (status >= 200) /* even if reading the rest of the answer failed */
		code = outcome_of_status(status);
	else if (d->refused[0] && !d->tried)
		code = outcome(1, "%s is no public address; only an admin may name others: cairn web-hook --private", d->refused);
	else if (r == CURLE_SSL_CACERT_BADFILE && d->authorities)
		code = outcome(EX_TEMPFAIL, "SSL_CERT_FILE: the file has no certificates in PEM");
	else
		code = outcome(is_passing(r) ? EX_TEMPFAIL : 1, "%s%s", why[0] ? why : curl_easy_strerror(r), certificate_remedy(c, r));
	curl_easy_cleanup(c);
	curl_slist_free_all(headers);
	return code;
}

int main(void)
{
	struct delivery d = { 0 };
	struct err e;
	int r;

	if (program_begin(&e) < 0)
		return outcome(EX_TEMPFAIL, "%s", e.msg);
	oom_protection_drop();
	signal(SIGPIPE, SIG_IGN);
	alarm(ATTEMPT_MS / 1000 + 5);
	if (curl_global_init(CURL_GLOBAL_DEFAULT))
		return outcome(EX_TEMPFAIL, "libcurl cannot be used");
	if (authorities_read(&d, &e) < 0)
		return outcome(EX_TEMPFAIL, "SSL_CERT_FILE: %s", e.msg);
	if (webhook_sandbox(&e) < 0)
		return outcome(EX_TEMPFAIL, "%s", e.msg);
	r = delivery_read(&d);
	r = r < 0 ? outcome(1, "cairn-webhook: standard input is malformed") : deliver(&d);
	json_object_put(d.o);
	free(d.authorities);
	curl_global_cleanup();
	return r;
}

#include "tools/web/guard.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/util.h"
#include "tools/web/login.h"
#include "tools/web/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* A session ends after this time without a request, and in any case after the limit, if there is one. */
#define ADDRESS_IDLE_SECONDS (12 * 3600)
#define PASSWORD_IDLE_SECONDS 3600
#define PASSWORD_LIMIT_SECONDS (12 * 3600)

static void secret_make(char text[SECRET_BYTES])
{
	uint8_t bytes[SECRET_BYTES / 2];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		abort();
	hex_print(bytes, sizeof(bytes), text);
}

/* Compare in a time that does not tell how much of the secret is right. */
static bool secret_fits(const char *secret, const char *given, size_t len)
{
	unsigned char differs = len != SECRET_BYTES - 1 || !secret[0];

	for (size_t i = 0; i < SECRET_BYTES - 1; i++)
		differs |= (unsigned char)(secret[i] ^ (i < len ? given[i] : 0));
	return !differs;
}

void guard_init(struct guard *g, unsigned port, const struct tls *tls, struct logins *logins)
{
	bool passwords = logins->channel >= 0;

	*g = (struct guard){ .port = port, .tls = tls, .logins = logins };
	g->session_idle_ns = (passwords ? PASSWORD_IDLE_SECONDS : ADDRESS_IDLE_SECONDS) * CLOCK_NS_PER_S;
	g->session_limit_ns = passwords ? PASSWORD_LIMIT_SECONDS * CLOCK_NS_PER_S : 0;
	pthread_mutex_init(&g->lock, NULL);
	/* Two servers on one host have cookies of their own. */
	snprintf(g->cookie_name, sizeof(g->cookie_name), "%scairn-web-%u", tls ? "__Host-" : "", port);
	secret_make(g->token);
}

void guard_token(struct guard *g, char token[SECRET_BYTES])
{
	LOCK_GUARD(&g->lock);

	memcpy(token, g->token, SECRET_BYTES);
}

/* Does the certificate have the name of "NAME:PORT"? Returns the text after the name; NULL: it does not begin with
 * the name. */
static const char *certified(const struct guard *g, const char *host)
{
	bool six = host[0] == '[';
	size_t n = six ? strcspn(++host, "]") : strcspn(host, ":");
	char name[TLS_NAME_BYTES];

	if (n >= sizeof(name) || (six && host[n] != ']'))
		return NULL;
	memcpy(name, host, n);
	name[n] = 0;
	return tls_names(g->tls, name) ? host + n + six : NULL;
}

bool guard_host_fits(const struct guard *g, const char *host)
{
	static const char *const names[] = { "127.0.0.1", "localhost", "[::1]" };
	const char *rest = host && g->tls ? certified(g, host) : NULL;
	char port[16];

	for (size_t i = 0; host && !g->tls && i < ARRAY_SIZE(names); i++)
		if (!strncmp(host, names[i], strlen(names[i])))
			rest = host + strlen(names[i]);
	if (!rest)
		return false;
	/* A forwarded Unix socket, as with ssh -L, has any port at the browser's end. */
	if (!g->port)
		return !rest[0] || (rest[0] == ':' && strspn(rest + 1, "0123456789") == strlen(rest + 1));
	snprintf(port, sizeof(port), ":%u", g->port);
	return !strcmp(rest, port) || (g->port == (g->tls ? 443 : 80) && !rest[0]);
}

bool guard_origin_fits(const struct guard *g, const char *origin, const char *host)
{
	const char *scheme = g->tls ? "https://" : "http://";
	size_t n = strlen(scheme);

	return origin && !strncmp(origin, scheme, n) && !strcmp(origin + n, host);
}

/* Find the session; 0: a free row. */
static struct session *session_of(struct guard *g, int id)
{
	for (size_t i = 0; i < SESSIONS_MAX; i++)
		if (g->sessions[i].id == id)
			return &g->sessions[i];
	return NULL;
}

static void session_end(struct guard *g, struct session *s)
{
	if (s->delegate >= 0) {
		login_end(g->logins, s->id);
		close(s->delegate);
	}
	explicit_bzero(s, sizeof(*s));
}

/* Find a row for a session: a free one, but that of the user's session used longest ago if the user has too many, or if
 * all are taken. Returns NULL: there is none. */
static struct session *session_room(struct guard *g, const char *user)
{
	struct session *oldest = NULL, *s;
	unsigned n = 0, most = user[0] ? USER_SESSIONS_MAX : ADDRESS_SESSIONS_MAX;

	for (size_t i = 0; i < SESSIONS_MAX; i++) {
		s = &g->sessions[i];
		if (!s->id || strcmp(s->user, user))
			continue;
		n++;
		if (!oldest || s->used_ns < oldest->used_ns)
			oldest = s;
	}
	s = n < most ? session_of(g, 0) : NULL;
	return s ? s : oldest;
}

bool guard_token_take(struct guard *g, const char *token)
{
	bool fits;
	LOCK_GUARD(&g->lock);

	fits = secret_fits(g->token, token, strlen(token));
	if (fits)
		secret_make(g->token);
	return fits;
}

int guard_session_id(struct guard *g)
{
	LOCK_GUARD(&g->lock);

	return ++g->last_id;
}

int guard_session_begin(struct guard *g, int id, const char *user, int delegate, struct session *ret, int *ret_ended)
{
	struct session *s;
	LOCK_GUARD(&g->lock);

	s = session_room(g, user);
	if (!s)
		return -EBUSY;
	*ret_ended = s->id;
	if (s->id)
		session_end(g, s);
	s->id = id;
	s->delegate = delegate;
	secret_make(s->cookie);
	secret_make(s->key);
	s->begin_ns = s->used_ns = clock_monotonic_ns();
	snprintf(s->user, sizeof(s->user), "%s", user);
	*ret = *s;
	return 0;
}

/* Find the value of the cookie in a header "a=b; name=value". Returns NULL: not there. */
static const char *cookie_find(const char *cookies, const char *name, size_t *ret_len)
{
	size_t n = strlen(name);

	for (const char *c = cookies; c; c = strchr(c, ';')) {
		c += strspn(c, "; ");
		if (!strncmp(c, name, n) && c[n] == '=') {
			*ret_len = strcspn(c + n + 1, "; ");
			return c + n + 1;
		}
	}
	return NULL;
}

static bool session_is_over(const struct guard *g, const struct session *s)
{
	struct pollfd p = { .fd = s->delegate, .events = POLLIN };
	uint64_t now = clock_monotonic_ns();

	/* A delegate sends nothing, so there is something to read only when it has ended. */
	return now - s->used_ns > g->session_idle_ns || (g->session_limit_ns && now - s->begin_ns > g->session_limit_ns) ||
		(s->delegate >= 0 && poll(&p, 1, 0) > 0);
}

int guard_session_find(struct guard *g, const char *cookies, const char *key)
{
	size_t len = 0;
	const char *cookie = cookie_find(cookies, g->cookie_name, &len);
	int found = -1;

	LOCK_GUARD(&g->lock);

	if (!cookie || !key)
		return -1;
	for (int i = 0; i < SESSIONS_MAX; i++) {
		struct session *s = &g->sessions[i];

		if (s->id && secret_fits(s->cookie, cookie, len) && secret_fits(s->key, key, strlen(key)) && !session_is_over(g, s)) {
			s->used_ns = clock_monotonic_ns();
			found = s->id;
		}
	}
	return found;
}

int guard_session_get(struct guard *g, int session, char *user, int *ret_delegate)
{
	LOCK_GUARD(&g->lock);
	const struct session *s = session > 0 ? session_of(g, session) : NULL;

	if (!s)
		return -ENOENT;
	if (user)
		memcpy(user, s->user, LOGIN_USER_BYTES);
	if (ret_delegate)
		*ret_delegate = s->delegate < 0 ? -1 : fcntl(s->delegate, F_DUPFD_CLOEXEC, 0);
	return ret_delegate && s->delegate >= 0 && *ret_delegate < 0 ? -errno : 0;
}

void guard_logout(struct guard *g, int session)
{
	LOCK_GUARD(&g->lock);
	struct session *s = session > 0 ? session_of(g, session) : NULL;

	if (s)
		session_end(g, s);
}

int guard_session_expire(struct guard *g)
{
	LOCK_GUARD(&g->lock);

	for (int i = 0; i < SESSIONS_MAX; i++)
		if (g->sessions[i].id && session_is_over(g, &g->sessions[i])) {
			int id = g->sessions[i].id;

			session_end(g, &g->sessions[i]);
			return id;
		}
	return 0;
}

int guard_sessions_count(struct guard *g)
{
	int n = 0;
	LOCK_GUARD(&g->lock);

	for (int i = 0; i < SESSIONS_MAX; i++)
		n += g->sessions[i].id != 0;
	return n;
}

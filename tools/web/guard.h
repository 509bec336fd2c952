/* guard: decides which requests the page's server answers: the address token, the sessions, and the headers Host and
 * Origin. Every function may be called by any thread. */
#ifndef CAIRN_TOOLS_WEB_GUARD_H
#define CAIRN_TOOLS_WEB_GUARD_H

#include "tools/login/message.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct logins;
struct tls;

/* 32 random bytes in hexadecimal, with NUL. */
#define SECRET_BYTES 65
#define SESSIONS_MAX LOGIN_SESSIONS_MAX
#define ADDRESS_SESSIONS_MAX 16
#define USER_SESSIONS_MAX 8 /* of a user who has logged in with a password */
#define COOKIE_NAME_BYTES 32

struct session {
	int id; /* never used again; 0: the row is free */
	char cookie[SECRET_BYTES];
	char key[SECRET_BYTES];	   /* the header X-Cairn-Key: cookies of 127.0.0.1 go to all of its ports, this does not */
	uint64_t begin_ns, used_ns;
	char user[LOGIN_USER_BYTES]; /* the user who has logged in with a password; empty: by the address */
	int delegate; /* owned; -1: this process connects */
};

struct guard {
	pthread_mutex_t lock;
	unsigned port; /* 0: a Unix socket */
	const struct tls *tls; /* NULL: http */
	char cookie_name[COOKIE_NAME_BYTES];
	char token[SECRET_BYTES]; /* the token of the next login */
	struct session sessions[SESSIONS_MAX];
	int last_id;
	struct logins *logins; /* logins with a password */
	uint64_t session_idle_ns, session_limit_ns; /* of a session; limit 0: none */
};

/* tls: borrowed; NULL: the page is on loopback, without encryption. logins: borrowed. */
void guard_init(struct guard *g, unsigned port, const struct tls *tls, struct logins *logins);
/* Copy the token that the next login takes. */
void guard_token(struct guard *g, char token[SECRET_BYTES]);
/* Does Host name this server, by a loopback name, or with TLS by a name of the certificate? A DNS name that an attacker
 * points to 127.0.0.1 does not. NULL: no. */
bool guard_host_fits(const struct guard *g, const char *host);
/* Does the request come from a page of this server? host: its checked header Host. A NULL origin does not fit. */
bool guard_origin_fits(const struct guard *g, const char *origin, const char *host);

/* Return whether the token fits; if it does, make a new one. */
bool guard_token_take(struct guard *g, const char *token);
/* Returns the id of a session that may begin later. */
int guard_session_id(struct guard *g);
/* Begin a session. If the user has too many, the one used longest ago ends.
 * user: who has logged in with a password; empty: by the address. delegate: taken on success.
 * ret_ended: id of the session that ended; 0: none.
 * Returns 0; -EBUSY: others have too many. */
int guard_session_begin(struct guard *g, int id, const char *user, int delegate, struct session *ret, int *ret_ended);
/* Find the session of the header Cookie and of X-Cairn-Key; both must fit. NULL allowed.
 * Returns its id; -1: none. */
int guard_session_find(struct guard *g, const char *cookies, const char *key);
/* Copy the name of the user who has logged in (LOGIN_USER_BYTES), and get a duplicate of the delegate's socket, or
 * -1, which the caller closes. user, ret_delegate: NULL allowed. Returns 0; -ENOENT: the session has ended. */
int guard_session_get(struct guard *g, int session, char *user, int *ret_delegate);
/* End the session. */
void guard_logout(struct guard *g, int session);
/* End a session whose time is over, or whose delegate has ended. Returns its id; 0: there is none. */
int guard_session_expire(struct guard *g);
int guard_sessions_count(struct guard *g);

#endif

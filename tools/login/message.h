/* message: the messages between cairn-web, which clients reach, and cairn-login, which has root's rights
 * (base/channel.h). The number of a message is that of the session. cairn-login trusts no message of cairn-web. */
#ifndef CAIRN_TOOLS_LOGIN_MESSAGE_H
#define CAIRN_TOOLS_LOGIN_MESSAGE_H

#include "base/channel.h"

#include <stdbool.h>
#include <stdint.h>

#define LOGIN_VERSION 1
#define LOGIN_USER_BYTES 256
#define LOGIN_PASSWORD_BYTES 512
#define LOGIN_ADDRESS_BYTES 64
#define LOGIN_CHECKS_MAX 32	/* logins that are being checked */
#define LOGIN_WAITS_MAX 128	/* logins that wait for a check, are being checked, or whose refusal is delayed */
#define LOGIN_ORIGIN_WAITS_MAX 32 /* of one address */
#define LOGIN_SESSIONS_MAX 128
/* Begins the address of a user of this host; the uid follows. */
#define LOGIN_LOCAL "uid:"

enum {
	LOGIN_READY = 1, /* cairn-web serves the page */
	LOGIN_ASK,	 /* struct login_ask: check a login, and start the user's delegate */
	LOGIN_END,	 /* the session has ended: kill its delegate */
	LOGIN_ANSWER,	 /* of cairn-login: struct login_answer, with the delegate's socket if it is LOGIN_OK */
};

enum login_verdict {
	LOGIN_OK,
	LOGIN_WRONG,	    /* the password, or the user may not log in */
	LOGIN_OLD_PASSWORD, /* the password is right, and has to be changed */
	LOGIN_EXPIRED,	    /* the password is right, but the account has expired */
	LOGIN_LIMITED,	    /* after too many failures */
	LOGIN_BUSY,	    /* too many logins at once, or too many sessions */
	LOGIN_FAILED,	    /* PAM gave no answer */
	LOGIN_MORE,	    /* PAM asks for more than a password */
	LOGIN_VERDICTS
};

/* All texts end with a NUL inside their array. */
struct login_ask {
	char user[LOGIN_USER_BYTES], password[LOGIN_PASSWORD_BYTES];
	char address[LOGIN_ADDRESS_BYTES]; /* of the browser: numeric, or LOGIN_LOCAL; empty: root or somebody on this host */
};

struct login_answer {
	uint32_t verdict;
	uint32_t wait_s; /* of LOGIN_LIMITED */
	char user[LOGIN_USER_BYTES]; /* the name of the user who has logged in */
};

extern const struct channel_type login_messages[LOGIN_ANSWER + 1];

/* Whether a message is a valid request: its texts are terminated, the user has no control characters, and the address
 * is one as above. */
bool login_ask_is_valid(const struct login_ask *a);
/* Whether a valid address is of another host. */
bool login_address_is_remote(const char *address);

#endif

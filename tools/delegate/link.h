/* link: a connection of the page to the daemon, to a guest's console or to its screen. cairn-web makes it for the user
 * who runs it; a delegate (cairn-delegate) makes it for a user who has logged in. Any thread. */
#ifndef CAIRN_TOOLS_DELEGATE_LINK_H
#define CAIRN_TOOLS_DELEGATE_LINK_H

#include "base/channel.h"
#include "base/err.h"

#include <stdint.h>

enum link_kind { LINK_DAEMON = 1, LINK_CONSOLE, LINK_SCREEN };

/* Connect. daemon: its socket. vm: for a console or a screen.
 * Returns 0 and an fd that the caller owns; -errno with a sentence. */
int link_connect(const char *daemon, enum link_kind kind, const char *vm, int *ret_fd, struct err *e);

/* ---- requests of cairn-web to a delegate (base/channel.h) ---- */

#define LINK_VERSION 1
#define LINKS_MAX 16 /* of one delegate at once */

enum { LINK_OPEN = 1 };

/* Body of LINK_OPEN, which comes with one end of a pair of stream sockets. The delegate answers on that socket with a
 * struct link_answer, and after a success passes all bytes between it and the connection. */
struct link_open {
	uint32_t kind;
	char vm[256];
};

struct link_answer {
	int32_t r; /* 0 or -errno */
	uint32_t cls; /* enum err_class */
	char why[ERR_SENTENCE_MAX];
};

extern const struct channel_type link_messages[LINK_OPEN + 1];

#endif

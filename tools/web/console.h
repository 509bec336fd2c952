/* console: serial consoles and screens of guests for pages. The output is an answer without an end, and the input comes
 * in requests of its own. Any thread. */
#ifndef CAIRN_TOOLS_WEB_CONSOLE_H
#define CAIRN_TOOLS_WEB_CONSOLE_H

#include "tools/login/message.h"
#include "tools/web/links.h"

#include <pthread.h>
#include <stddef.h>

struct err;
struct MHD_Connection;
struct MHD_Response;

#define CONSOLES_MAX 128
#define USER_CONSOLES_MAX 32
#define CONSOLE_ID_BYTES 33

struct consoles {
	pthread_mutex_t lock;
	struct console {
		int fd; /* -1: the row is free */
		int session; /* the session that may write to it */
		char user[LOGIN_USER_BYTES];
		char id[CONSOLE_ID_BYTES];
	} rows[CONSOLES_MAX];
};

void consoles_init(struct consoles *c);
/* Connect to the serial console or the screen (VNC) of a VM, and create an answer from the data of the guest's side;
 * its first byte is 0. The answer ends when that side or the browser does.
 * user: of the session, with at most USER_CONSOLES_MAX at a time. id: the page's name for it, for console_write(); 1 to
 * 32 characters.
 * Returns 0; -errno with a sentence. */
int console_open(struct consoles *c, const struct links *links, enum link_kind kind, int session, const char *user, const char *vm,
	const char *id, struct MHD_Connection *browser, struct MHD_Response **ret_r, struct err *e);
/* Pass input to the guest. Returns 0; -EAGAIN: the guest reads none; -ENOENT: the session has no such console. */
int console_write(struct consoles *c, int session, const char *id, const char *data, size_t len, struct err *e);

#endif

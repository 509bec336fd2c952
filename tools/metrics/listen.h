/* listen: the socket and the token of cairn-metrics. */
#ifndef CAIRN_TOOLS_METRICS_LISTEN_H
#define CAIRN_TOOLS_METRICS_LISTEN_H

struct err;

/* Token: 16 to TOKEN_MAX - 1 printable characters. */
#define TOKEN_MAX 257

/* Read the token, without the line's end. Returns 0; -EINVAL, also if others may read the file; -errno. */
int token_read(const char *path, char token[TOKEN_MAX], struct err *e);
/* Listen on "ADDRESS:PORT"; IPv6 addresses are in brackets. Returns 0 and an fd that the caller owns; -errno. */
int listen_tcp(const char *where, int *ret_fd, struct err *e);
/* Listen on a Unix socket of mode 0660, and replace a stale one. Returns 0 and an fd that the caller owns; -errno. */
int listen_unix(const char *path, int *ret_fd, struct err *e);

#endif

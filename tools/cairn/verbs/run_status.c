#include "tools/cairn/verbs/run_status.h"
#include "api/wire/json.h"
#include "base/file.h"
#include "tools/cairn/verbs/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int run_status_open(struct cli *c, int *ret_fd)
{
	const char *text = option_value(c, "status-fd");
	char *end;
	long n;

	*ret_fd = -1;
	if (!text)
		return 0;
	n = strtol(text, &end, 10);
	if (end == text || *end || n < 0 || n > INT_MAX)
		return cli_usage(c, "--status-fd must be the number of an open file, not \"%s\"", text);
	/* Standard streams stay open for other programs. */
	if (fcntl((int)n, F_GETFD) < 0 || (n > 2 && fcntl((int)n, F_SETFD, FD_CLOEXEC) < 0))
		return cli_usage(c, "--status-fd %ld: %s", n, strerror(errno));
	*ret_fd = (int)n;
	return 0;
}

void run_status_write(int fd, int status, const char *whose, const struct exec_outcome *o)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();
	const char *text;

	if (fd < 0)
		return;
	js_put_str(line, "by", o->reason ? "cairn" : whose);
	js_put_int(line, "status", status);
	js_put(line, "signal", o->signal ? json_object_new_int(o->signal) : NULL);
	if (o->warm)
		js_put_bool(line, "warm", true);
	if (o->reason)
		js_put_str(line, "reason", o->reason);
	if (o->reason && o->err.msg[0])
		js_put_str(line, "error", o->err.msg);
	text = json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	signal(SIGPIPE, SIG_IGN);
	fflush(stdout);
	if (write_full(fd, text, strlen(text)) < 0 || write_full(fd, "\n", 1) < 0)
		fprintf(stderr, "warning: --status-fd %d: %s\n", fd, strerror(errno));
}

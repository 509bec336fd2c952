/* web: replaces this process by cairn-web, which serves a page to manage VMs: a web server is a library of its own. */
#include "tools/cairn/cli.h"
#include "api/store/paths.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

int verb_web(struct cli *c)
{
	static const char *const options[] = { "--listen", "--unix", "--certificate", "--key", "--pam", "--allow-root" };
	const char *argv[16] = { "cairn-web" };
	char program[PATH_MAX];
	size_t n = 1;
	struct err e;

	for (int i = 0; i < (int)ARRAY_SIZE(options); i++)
		if (c->options[i]) {
			argv[n++] = options[i];
			if (c->verb->options[i].value)
				argv[n++] = c->options[i];
		}
	if (c->socket) {
		argv[n++] = "--connect";
		argv[n++] = c->socket;
	}
	if (paths_helper("cairn-web", program, sizeof(program), &e) == 0) {
		execv(program, (char *const *)argv);
		err_set_errno(&e, -errno, "%s", program);
	}
	return cli_fail(&e, "Failed to start the page");
}

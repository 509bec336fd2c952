/* shell: replaces this process by the shell, a program of its own (tools/shell): its library of line editing would slow
 * each start of this one. */
#include "tools/cairn/cli.h"
#include "api/store/paths.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

int shell_start(struct cli *c, const char *line)
{
	char program[PATH_MAX], self[PATH_MAX];
	const char *argv[8]; /* cairn-shell, two paths, --line with its line, -q, -r, NULL */
	unsigned n = 0;
	struct err e;

	if (paths_self(self, &e) == 0 && paths_helper("cairn-shell", program, sizeof(program), &e) == 0) {
		argv[n++] = "cairn-shell";
		argv[n++] = self;
		argv[n++] = c->socket ? c->socket : "";
		if (line) {
			argv[n++] = "--line";
			argv[n++] = line;
		}
		if (output_is_quiet())
			argv[n++] = "-q";
		if (c->readonly)
			argv[n++] = "-r";
		argv[n] = NULL;
		execv(program, (char *const *)argv);
		err_set_errno(&e, -errno, "%s", program);
	}
	return cli_fail(&e, "Failed to start the shell");
}

int verb_shell(struct cli *c)
{
	return shell_start(c, NULL);
}

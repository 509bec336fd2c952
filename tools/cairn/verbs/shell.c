/* shell: replaces this process by the interactive shell, a program of its own (tools/shell): its library of line
 * editing would slow each start of this one. */
#include "tools/cairn/cli.h"
#include "api/store/paths.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

int verb_shell(struct cli *c)
{
	const char *options[2] = { NULL, NULL };
	char program[PATH_MAX], self[PATH_MAX];
	unsigned noptions = 0;
	struct err e;

	if (output_is_quiet())
		options[noptions++] = "-q";
	if (c->readonly)
		options[noptions] = "-r";
	if (paths_self(self, &e) == 0 && paths_helper("cairn-shell", program, sizeof(program), &e) == 0) {
		execl(program, "cairn-shell", self, c->socket ? c->socket : "", options[0], options[1], (char *)NULL);
		err_set_errno(&e, -errno, "%s", program);
	}
	return cli_fail(&e, "Failed to start the shell");
}

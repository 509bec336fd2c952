/* fuzz_exec: libFuzzer target for what cairn-agent sends to `cairn exec` and `cairn cp`: frames, their order, and the
 * tree in their output. Each accepted frame lies inside the input, and a tree leaves nothing beside its path.
 * The first byte chooses: bit 0: the program has a terminal; bit 1: the tree is copied to a folder, not to a file. */
#include "base/agent_frame.h"
#include "base/tree_stream.h"
#include "tests/fuzz/fuzz_api.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static char top[64];

static int entry_remove(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	must(where->level == 0 || remove(path) == 0);
	return 0;
}

static int entry_open(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)where;
	if (type == FTW_D || type == FTW_DNR)
		must(chmod(path, st->st_mode | 0700) == 0);
	return 0;
}

/* Remove what the tree has made, of which the folder `top` has at most one entry, "t". */
static void top_empty(void)
{
	DIR *d = opendir(top);
	struct dirent *e;

	must(d);
	while ((e = readdir(d)))
		must(e->d_name[0] == '.' || !strcmp(e->d_name, "t"));
	closedir(d);
	nftw(top, entry_open, 16, FTW_PHYS);
	nftw(top, entry_remove, 16, FTW_PHYS | FTW_DEPTH);
}

static void frames_read(const uint8_t *data, size_t len, bool terminal, struct tree_reader *tree)
{
	struct agent_order order = { .terminal = terminal, .in_flight = AGENT_WINDOW_BYTES };
	struct agent_frame f;
	ssize_t n;
	int r = 0;

	while ((n = agent_frame_parse(data, len, true, &f)) > 0) {
		must((size_t)n <= len && f.data + f.len <= data + len && f.len <= AGENT_DATA_MAX);
		if (agent_order_check(&order, &f) < 0)
			return;
		must(order.in_flight <= AGENT_WINDOW_BYTES && order.step <= 3);
		if (f.type == AGENT_FRAME_STDOUT && !r)
			r = tree_reader_take(tree, f.data, f.len);
		data += n;
		len -= (size_t)n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct tree_reader tree;
	static int null = -1;
	static struct agent_start start;
	const char *tag, *folder;
	char path[80];

	if (!len)
		return 0;
	if (null < 0) {
		snprintf(top, sizeof(top), "%s/fuzz-exec-%d", getenv("TMPDIR") ?: "/tmp", (int)getpid());
		must(strlen(top) < sizeof(top) - 1 && mkdir(top, 0700) == 0);
		null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	}
	snprintf(path, sizeof(path), "%s/t", top);
	tree_reader_init(&tree, path, data[0] & 2 ? -1 : null);
	if (data[0] & 4)
		tree_reader_take(&tree, data + 1, len - 1);
	else
		frames_read(data + 1, len - 1, data[0] & 1, &tree);
	tree_reader_end(&tree);
	if (data[0] & 2)
		top_empty();
	/* The other direction, which cairn-agent reads. */
	if (agent_start_parse(data, len, &start) == 0)
		must(start.nargs && start.words[start.nargs + start.nvars - 1] < (const char *)data + len);
	if (agent_mount_parse(data, len, &tag, &folder) == 0)
		must(folder + strlen(folder) + 1 == (const char *)data + len);
	return 0;
}

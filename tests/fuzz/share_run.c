#include "tests/fuzz/fuzz_api.h"
#include "tests/fuzz/fuzz_share.h"

#include "base/bytes.h"
#include "base/util.h"
#include "tools/share/share.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define NODES_MAX 24
#define HANDLES_MAX 8
#define FILE_BYTES_MAX (1u << 20)

static _Alignas(8) uint8_t request[SHARE_FUSE_MAX], answer[SHARE_FUSE_MAX];

static int path_remove(const char *path, const struct stat *st, int what, struct FTW *at)
{
	(void)st;
	(void)what;
	(void)at;
	return remove(path);
}

static void file_make(int folder, const char *name)
{
	int fd = openat(folder, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	must(fd >= 0 && write(fd, "content", 7) == 7);
	close(fd);
}

/* Returns whether there was no error. */
static bool request_run(struct share *s, uint32_t opcode, uint64_t node, const uint8_t *arg, size_t len)
{
	struct fuse_in_header head = { .len = (uint32_t)(sizeof(head) + len), .opcode = opcode, .unique = 7, .nodeid = node };
	const struct fuse_out_header *out = (const struct fuse_out_header *)answer;
	size_t n;

	memcpy(request, &head, sizeof(head));
	if (len)
		memcpy(request + sizeof(head), arg, len);
	n = share_answer(s, request, sizeof(head) + len, answer);
	must(!n || (n >= sizeof(*out) && n <= SHARE_FUSE_MAX && out->len == n && out->unique == 7 && out->error <= 0 && out->error > -1000));
	return !n || !out->error;
}

unsigned share_run(const uint8_t *data, size_t len)
{
	static const struct rlimit bytes = { FILE_BYTES_MAX, FILE_BYTES_MAX };
	static const struct fuse_init_in init = { .major = 7, .minor = 36 };
	const char *tmp = getenv("TMPDIR");
	struct share s = { .read_only = len && (*data & 1) };
	char folder[4096], above[4200];
	struct stat st;
	unsigned done = 0;
	int root;

	if (!len)
		return 0;
	signal(SIGXFSZ, SIG_IGN);
	must(!setrlimit(RLIMIT_FSIZE, &bytes));
	snprintf(above, sizeof(above), "%s/share-XXXXXX", tmp ? tmp : "/tmp");
	must(mkdtemp(above) && snprintf(folder, sizeof(folder), "%.4080s/in", above) > 0 && !mkdir(folder, 0700));
	root = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	file_make(root, "a");
	must(!mkdirat(root, "d", 0700) && !symlinkat("../b", root, "l"));
	s.proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	must(!nodes_init(&s.nodes, root, NODES_MAX, HANDLES_MAX));
	request_run(&s, FUSE_INIT, 0, (const uint8_t *)&init, sizeof(init));
	request_run(&s, FUSE_LOOKUP, 1, (const uint8_t *)"a", 2); /* nodes 2 to 4 */
	request_run(&s, FUSE_LOOKUP, 1, (const uint8_t *)"d", 2);
	request_run(&s, FUSE_LOOKUP, 1, (const uint8_t *)"l", 2);
	for (data++, len--; len >= 4;) {
		size_t n = MIN((size_t)load_le16(data + 2), MIN(len - 4, SHARE_FUSE_MAX - sizeof(struct fuse_in_header)));

		done += request_run(&s, data[0], (data[1] & 31u) | (uint64_t)(data[1] >> 5) << 32, data + 4, n);
		data += 4 + n;
		len -= 4 + n;
	}
	/* The shared folder is still there, and still a folder. */
	must(!fstat(root, &st) && S_ISDIR(st.st_mode));
	nodes_reset(&s.nodes);
	close(root);
	close(s.proc);
	free(s.nodes.list);
	free(s.nodes.buckets);
	free(s.nodes.handles);
	nftw(folder, path_remove, 8, FTW_DEPTH | FTW_PHYS);
	must(!rmdir(above)); /* it had nothing but the folder */
	return done;
}

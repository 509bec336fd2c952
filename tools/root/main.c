/* cairn-root: make a root file system for a VM, one squashfs image, from a folder, a tar archive or a container image.
 * It needs no root: files are never unpacked, so owners, set-user-ID bits, extended attributes and devices are as in
 * the source. Finished images stay in a cache (cache.h).
 *
 * Prints a line of JSON: image (its path), digest, size, config. With --list, an array: cache_list().
 * Exit status: 0; 1 with a sentence on stderr; 2: usage; 3, with a sentence: a run uses the image to remove. */
#include "api/wire/json.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/program.h"
#include "tools/root/cache.h"
#include "tools/root/cancel.h"
#include "tools/root/hand_over.h"
#include "tools/root/source.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX 2000000
#define EXIT_BUSY 3

static const char usage[] =
	"usage: cairn-root [OPTION]... SOURCE\n"
	"Make a squashfs image of a root file system, and print where it is, as JSON.\n\n"
	"SOURCE is one of:\n"
	"  ./FOLDER, /FOLDER          a root folder, or an OCI layout\n"
	"  ./FILE, /FILE              a tar archive of a root, perhaps compressed, or an OCI archive\n"
	"  oci:FOLDER[:TAG]           an OCI layout\n"
	"  oci-archive:FILE[:TAG]     an OCI archive\n"
	"  NAME, docker://NAME        an image of a registry, by skopeo\n"
	"  docker-archive:FILE, containers-storage:NAME, docker-daemon:NAME   the same\n\n"
	"  --pull                     ask the registry, even if the image is in the cache\n"
	"  --files-max N              refuse an image of more files [2000000]\n"
	"  --insecure-registry        accept a registry without TLS\n"
	"  --hand-over FD             lock the image as a run does, and send its file to the socket FD\n"
	"  --list                     print all images of the cache, as JSON\n"
	"  --remove DIGEST            remove an image that no run uses\n"
	"  --help                     print this text\n";

enum option_id { OPTION_PULL = 256, OPTION_FILES_MAX, OPTION_INSECURE, OPTION_HAND_OVER, OPTION_LIST, OPTION_REMOVE, OPTION_HELP };

static const struct option options[] = {
	{ "pull", no_argument, NULL, OPTION_PULL },
	{ "files-max", required_argument, NULL, OPTION_FILES_MAX },
	{ "insecure-registry", no_argument, NULL, OPTION_INSECURE },
	{ "hand-over", required_argument, NULL, OPTION_HAND_OVER },
	{ "list", no_argument, NULL, OPTION_LIST },
	{ "remove", required_argument, NULL, OPTION_REMOVE },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ NULL, 0, NULL, 0 },
};

static int usage_fail(void)
{
	fputs(usage, stderr);
	return 2;
}

static bool files_max_parse(const char *text, uint32_t *ret)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	*ret = (uint32_t)v;
	return *text >= '0' && *text <= '9' && !*end && v > 0 && v <= 100000000;
}

/* The digest of an image, "sha256:" and 64 hexadecimal digits. Returns the digits; NULL: it is none. */
static const char *digest_key(const char *digest)
{
	uint8_t bytes[32];

	return !strncmp(digest, "sha256:", 7) && strlen(digest) == 71 && hex_parse(digest + 7, bytes, sizeof(bytes)) ? digest + 7 : NULL;
}

/* A socket that the caller has left open. Returns false: it is none. */
static bool socket_parse(const char *text, int *ret)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);
	struct stat st;

	*ret = (int)v;
	return *text >= '0' && *text <= '9' && !*end && v <= INT_MAX && fstat(*ret, &st) == 0 && S_ISSOCK(st.st_mode) &&
		fcntl(*ret, F_SETFD, FD_CLOEXEC) == 0;
}

/* Hand the image over to the caller while the lock of its key keeps others from removing it. */
static int image_hand_over(struct json_object *image, int sock, struct err *e)
{
	CLEANUP_CLOSE int fd = cache_use(image, e);
	int r = fd < 0 ? fd : channel_send(sock, HAND_OVER_VERSION, HAND_OVER_TYPE, 0, NULL, 0, &fd, 1);

	return fd >= 0 && r < 0 ? err_set_errno(e, r, "cannot hand the image over") : r;
}

/* Do the work, and print the answer.
 * name: NULL: all images. gone: the image to remove; NULL: none. sock: gets the image's file; -1: nobody does. */
static int source_main(const struct source_options *o, const char *name, const char *gone, int sock)
{
	struct json_object *answer = NULL;
	struct cache cache;
	struct err e;
	int r = cache_open(&cache, &e);

	if (!r && gone)
		r = cache_remove(&cache, gone, &e);
	else if (!r)
		r = name ? source_make(&cache, name, o, &answer, &e) : cache_list(&cache, &answer, &e);
	if (!r && name && sock >= 0)
		r = image_hand_over(answer, sock, &e);
	cache_close(&cache);
	if (r < 0)
		fprintf(stderr, "%s\n", e.msg);
	else if (answer)
		puts(json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(answer);
	return r == -EBUSY ? EXIT_BUSY : r < 0;
}

int main(int argc, char **argv)
{
	struct source_options o = { .files_max = FILES_MAX };
	const char *gone = NULL;
	bool lists = false;
	int id, sock = -1;

	program_outlive_file_limit();
	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (id) {
		case OPTION_PULL:
			o.pull = true;
			break;
		case OPTION_INSECURE:
			o.insecure = true;
			break;
		case OPTION_HAND_OVER:
			if (!socket_parse(optarg, &sock))
				return usage_fail();
			break;
		case OPTION_LIST:
			lists = true;
			break;
		case OPTION_REMOVE:
			gone = digest_key(optarg);
			if (!gone)
				return usage_fail();
			break;
		case OPTION_FILES_MAX:
			if (!files_max_parse(optarg, &o.files_max))
				return usage_fail();
			break;
		case OPTION_HELP:
			fputs(usage, stdout);
			return program_end("cairn-root", 0);
		default:
			return usage_fail();
		}
	if (argc - optind != !(lists || gone) || (lists && gone) || (argc > optind && !*argv[optind]))
		return usage_fail();
	signal(SIGPIPE, SIG_IGN);
	cancel_begin();
	if (sock >= 0 && !cancel_with_parent(sock))
		return 1;
	return program_end("cairn-root", source_main(&o, argv[optind], gone, sock));
}

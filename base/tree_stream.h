/* tree_stream: a file or folder as a stream, for `cairn cp` with cairn-agent. docs/agent.md describes the records.
 *
 * The reader does not trust the stream. Each name is a single component, and the reader opens files and folders below
 * their parent folder without following symbolic links. So it writes nothing outside the named path. It keeps regular
 * files, folders, symbolic links and the nine bits of permissions; a file or folder that exists keeps its own
 * permissions. No allocation but opendir()'s: cairn-agent uses this, too. */
#ifndef CAIRN_BASE_TREE_STREAM_H
#define CAIRN_BASE_TREE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TREE_DEPTH_MAX 64
#define TREE_HEADER_BYTES 8
#define TREE_TEXT_MAX (256 + 4096) /* name and target of a symbolic link */
#define TREE_DATA_MAX 65536u

/* The first fault: errno, and the name that it concerns, cut off if it is long. */
struct tree_fault {
	int error;
	char name[256];
};

struct tree_writer {
	int fd; /* the stream; borrowed */
	void (*progress)(struct tree_writer *w); /* NULL: none */
	void *opaque;
	uint64_t total, done; /* bytes of files; total: as they were at the beginning */
	uint64_t skipped; /* sockets, devices and the like */
	struct tree_fault fault;
};

/* Write a file or folder, to which a symbolic link may lead.
 * Returns 0; -errno with w->fault. */
int tree_write(struct tree_writer *w, const char *path);
/* Write an open file as a file with mode 0644. */
int tree_write_fd(struct tree_writer *w, int fd);

struct tree_reader {
	uint64_t total, done; /* bytes of files; total: as the other side says */
	struct tree_fault fault;
	/* The caller may set these after tree_reader_init(): */
	mode_t mask; /* permissions that files and folders do not get */
	bool nofollow; /* refuse a symbolic link at the path */
	int (*write)(int fd, const uint8_t *data, size_t len); /* instead of write(2) for data. Returns 0; -errno */

	/* private */
	const char *path;
	int single; /* the file's content goes here, and a folder is refused; -1: none */
	unsigned depth;
	int dirs[TREE_DEPTH_MAX]; /* of the folders that are open; [0] is the path itself */
	mode_t modes[TREE_DEPTH_MAX]; /* to set at a folder's end; (mode_t)-1: it was there before */
	int file;
	mode_t file_mode; /* to set at the file's end; (mode_t)-1: it was there before */
	bool begun, complete, in_file;
	uint8_t header[TREE_HEADER_BYTES];
	size_t have; /* bytes of the header and of the text */
	uint32_t left; /* bytes of data */
	char text[TREE_TEXT_MAX + 1];
};

/* Begin to read a stream into a path, which need not exist.
 * path: borrowed. single: borrowed; -1: none. */
void tree_reader_init(struct tree_reader *t, const char *path, int single);
/* Take data. Returns 0; -errno with t->fault; -EPROTO: it is malformed. No further call after an error. */
int tree_reader_take(struct tree_reader *t, const uint8_t *data, size_t len);
/* Close the open files. Returns 0; -EPROTO: the stream is incomplete. */
int tree_reader_end(struct tree_reader *t);

#endif

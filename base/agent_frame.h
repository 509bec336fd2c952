/* agent_frame: the protocol between cairn and cairn-agent, a program in the guest. docs/agent.md describes it.
 *
 * A frame is a type (1 byte), three bytes 0, the length of its data (4 bytes, little-endian), and the data. Neither
 * side trusts the other: agent_frame_parse() checks type and length, agent_order_check() the order of frames. These
 * functions allocate nothing and do no I/O, because cairn-agent uses them, too. */
#ifndef CAIRN_BASE_AGENT_FRAME_H
#define CAIRN_BASE_AGENT_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define AGENT_PORT 522 /* of vsock; below 1024, so that only root of the guest can listen there */
#define AGENT_HELLO_TEXT "cairn-agent 1\n"
#define AGENT_HELLO_BYTES (sizeof(AGENT_HELLO_TEXT) - 1)

#define AGENT_HEADER_BYTES 8
#define AGENT_DATA_MAX (64u * 1024)
#define AGENT_FRAME_MAX (AGENT_HEADER_BYTES + AGENT_DATA_MAX)
/* Bytes of standard input that the host may send before the agent says that the program has taken some. */
#define AGENT_WINDOW_BYTES (128u * 1024)
#define AGENT_WORDS_MAX 4096 /* arguments and environment of a program */

enum agent_frame_type {
	AGENT_FRAME_HELLO = 1,	 /* guest: AGENT_HELLO_TEXT; the first frame */
	AGENT_FRAME_START = 2,	 /* host: struct agent_start; the first frame */
	AGENT_FRAME_STARTED = 3, /* guest: the program runs; pid (4) */
	AGENT_FRAME_FAILED = 4,	 /* guest: it does not; errno (4), enum agent_step (4); the last frame */
	AGENT_FRAME_STDIN = 5,	 /* host: data of standard input; without data: its end */
	AGENT_FRAME_STDOUT = 6,	 /* guest: data */
	AGENT_FRAME_STDERR = 7,	 /* guest: data */
	AGENT_FRAME_TAKEN = 8,	 /* guest: bytes of standard input that the program has taken (4) */
	AGENT_FRAME_SIGNAL = 9,	 /* host: send a signal to the program's process group, SIGKILL to its session (4) */
	AGENT_FRAME_SIZE = 10,	 /* host: the terminal's rows (2) and columns (2) */
	AGENT_FRAME_EXIT = 11,	 /* guest: exit status (4), signal (4; 0: none); the last frame */
	/* host: the guest is one of several that continue from one state (docs/agent.md): AGENT_RENEW_BYTES, and
	 * perhaps the guest's host name; before START */
	AGENT_FRAME_RENEW = 12,
	AGENT_FRAME_RENEWED = 13, /* guest: errno (4; 0: done) */
	AGENT_FRAME_MOUNT = 14,	  /* host: mount a virtio-fs share; its tag and the folder, each with a NUL; before START */
	AGENT_FRAME_TYPE_COUNT,
};

/* The data of AGENT_FRAME_RENEW: the time in ns since 1970 (8), and random bytes. */
#define AGENT_RANDOM_BYTES 32
#define AGENT_RENEW_BYTES (8 + AGENT_RANDOM_BYTES)
#define AGENT_NAME_MAX 63

/* Longest data of AGENT_FRAME_MOUNT. */
#define AGENT_MOUNT_MAX 1024

/* The step of a program's start that failed. */
enum agent_step {
	AGENT_STEP_AGENT = 1,	 /* something in the agent */
	AGENT_STEP_TERMINAL = 2, /* the pseudo terminal */
	AGENT_STEP_FOLDER = 3,	 /* the working folder */
	AGENT_STEP_PROGRAM = 4,
	AGENT_STEP_USER = 5,	 /* the user, or becoming the user */
	AGENT_STEP_MOUNT = 6,	 /* the first MOUNT; 7: the second one, and so on */
};

/* The errno of FAILED while the agent serves as many connections as it can (EUSERS), and the message for the user. */
#define AGENT_ERROR_BUSY 87
#define AGENT_BUSY_TEXT \
	"cairn-agent in the guest is busy: it serves as many programs and copies as it can; try again when one has ended"

struct agent_frame {
	enum agent_frame_type type;
	const uint8_t *data; /* borrowed from the parsed buffer */
	size_t len;
};

/* Write a header. len: at most AGENT_DATA_MAX. */
void agent_header_put(uint8_t buf[AGENT_HEADER_BYTES], enum agent_frame_type type, size_t len);
/* Parse the first frame of a buffer.
 * from_guest: accept only the guest's frames; else only the host's.
 * Returns its bytes, with *ret; 0: it is not complete; -EPROTO. */
ssize_t agent_frame_parse(const uint8_t *buf, size_t len, bool from_guest, struct agent_frame *ret);

/* Write the data of AGENT_FRAME_MOUNT. tag, folder: at most AGENT_MOUNT_MAX - 2 bytes together. Returns its length. */
size_t agent_mount_put(const char *tag, const char *folder, uint8_t buf[AGENT_MOUNT_MAX]);
/* Parse it. The texts are borrowed from the data. Returns 0; -EPROTO. */
int agent_mount_parse(const uint8_t *data, size_t len, const char **ret_tag, const char **ret_folder);

/* ---- the order of a guest's frames, for the host ---- */

struct agent_order {
	uint8_t step;	 /* 0: HELLO is due; 1: STARTED or FAILED is due; 2: the program runs; 3: the last frame came */
	bool terminal;	 /* the program has a terminal, so no standard error */
	bool renews;	 /* RENEW was sent, so RENEWED is due before STARTED */
	size_t in_flight; /* bytes of standard input that were sent and not taken; the sender adds to it */
};

/* Check a frame of the guest, and account for it. Returns 0; -EPROTO. */
int agent_order_check(struct agent_order *o, const struct agent_frame *f);

/* ---- the request to start a program ---- */

enum agent_start_flags {
	AGENT_START_TERMINAL = 1,
	AGENT_START_INPUT = 2,	 /* STDIN frames follow; otherwise the program's input is empty */
	/* No program: write the standard input (base/tree_stream.h) to the path in the first argument. If that is a
	 * folder, write to the name of the second argument in it. */
	AGENT_START_RECEIVE = 4,
	/* No program: write the file or folder in the first argument to standard output. */
	AGENT_START_SEND = 8,
	AGENT_START_USER = 16, /* run the program as `user` */
};

/* The data of AGENT_FRAME_START: flags (4), rows (2), columns (2), number of arguments (2) and of variables (2), then
 * the working folder, the user with AGENT_START_USER, the arguments and the variables, each with a NUL. */
struct agent_start {
	uint32_t flags;
	uint16_t rows, columns;
	const char *folder; /* "": the agent's own, / */
	const char *user; /* with AGENT_START_USER: NAME or UID, perhaps with ":" and the name or number of a group */
	size_t nargs, nvars;
	const char *words[AGENT_WORDS_MAX]; /* arguments, at least one, then variables, each with a '=' after its name */
};

#define AGENT_START_BYTES 12

/* Write the data. Returns its length; -E2BIG: the words do not fit into a frame. */
ssize_t agent_start_put(const struct agent_start *s, uint8_t buf[AGENT_DATA_MAX]);
/* Parse the data. ret: its texts are borrowed from the data. Returns 0; -EPROTO. */
int agent_start_parse(const uint8_t *data, size_t len, struct agent_start *ret);

#endif

/* program: the first step of a program, most of all of one that cairnd starts with the rights of a user
 * (api/access/spawn.h), and the last one. */
#ifndef CAIRN_BASE_PROGRAM_H
#define CAIRN_BASE_PROGRAM_H

struct err;

/* Let a write beyond the limit of file sizes (ulimit -f) fail with EFBIG instead of ending the process. Programs that
 * this process executes get the signal as before. */
void program_outlive_file_limit(void);

/* Write out standard output. If that fails, print a sentence that begins with `who`. Returns the exit status: `status`,
 * or 1 if that is 0 and the output was not written. */
int program_end(const char *who, int status);

/* Environment variable, "SIGNAL:PID": the process gets the signal when its parent PID ends. */
#define PROGRAM_DEATH "CAIRN_DEATH"

/* Set all user ids to the effective one, and forbid this user, who now owns the process, to read its memory and to
 * take its fds. From execve() until this call the real user id differs from the effective one, and the kernel forbids
 * both. Also set no_new_privs, act on PROGRAM_DEATH, and
 * program_outlive_file_limit(). Call it first in main(). Returns 0; -errno with a sentence. */
int program_begin(struct err *e);

/* Forbid other processes of the user to read this one. Call it again after a change of ids, which undoes it where
 * fs.suid_dumpable is 1. Returns 0 or -errno. */
int program_hide(void);

#endif

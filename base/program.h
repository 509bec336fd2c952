/* program: the first step of a program that cairnd starts with the rights of a user (api/access/spawn.h). */
#ifndef CAIRN_BASE_PROGRAM_H
#define CAIRN_BASE_PROGRAM_H

struct err;

/* Environment variable, "SIGNAL:PID": the process gets the signal when its parent PID ends. */
#define PROGRAM_DEATH "CAIRN_DEATH"

/* Set all user ids to the effective one, and forbid this user, who now owns the process, to read its memory and to
 * take its fds. From execve() until this call the real user id differs from the effective one, and the kernel forbids
 * both. Also set no_new_privs, and act on PROGRAM_DEATH. Call it first in main(). Returns 0; -errno with a sentence. */
int program_begin(struct err *e);

/* Forbid other processes of the user to read this one. Call it again after a change of ids, which undoes it where
 * fs.suid_dumpable is 1. Returns 0 or -errno. */
int program_hide(void);

#endif

/* sandbox: restrict the process before it reads an image or an archive: no capabilities, no new programs, no sockets,
 * and only open files. */
#ifndef CAIRN_TOOLS_ARCHIVE_SANDBOX_H
#define CAIRN_TOOLS_ARCHIVE_SANDBOX_H

struct err;

/* Restrict the process.
 * The process may continue to use its loops, but none may have begun an operation, because a loop's threads would not
 * be restricted.
 * folder: files may still be created and opened here; -1: nowhere.
 * Returns 0; -errno with a sentence. */
int archive_sandbox(int folder, struct err *e);

#endif

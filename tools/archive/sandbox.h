/* sandbox: from here on, before anything of an image or an archive is looked at: no
 * capabilities, no new programs, no sockets, and no files but those that are open. */
#ifndef CAIRN_TOOLS_ARCHIVE_SANDBOX_H
#define CAIRN_TOOLS_ARCHIVE_SANDBOX_H

struct err;

/* folder: where files may still be opened and made; -1: nowhere. */
int archive_sandbox(int folder, struct err *e);

#endif

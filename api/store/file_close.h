/* file_close: closes a large unlinked file of the state folder. close() frees the file's blocks, which takes seconds
 * when the file has many extents, so a thread of its own calls it.
 * Threading: any thread. */
#ifndef CAIRN_API_STORE_FILE_CLOSE_H
#define CAIRN_API_STORE_FILE_CLOSE_H

/* Close a file. fd: taken; -1: none. Without memory or threads the fd leaks, because a leak does less harm than a
 * blocked loop. */
void file_close_async(int fd);

#endif

/* run_folder: the folder of the socket that leads to the guest of a `cairn run`. Each process that uses the folder has
 * a shared lock on it. A folder without a lock is left over from a run whose processes were all killed, and the next
 * run removes it. */
#ifndef CAIRN_TOOLS_VERBS_RUN_FOLDER_H
#define CAIRN_TOOLS_VERBS_RUN_FOLDER_H

#define RUN_FOLDER_PARENT_MAX 80 /* XDG_RUNTIME_DIR's length at most: a socket's path has 107 bytes */

struct run_folder {
	char path[RUN_FOLDER_PARENT_MAX + 20];
	char socket[RUN_FOLDER_PARENT_MAX + 27]; /* of the file that the VM's process makes; "": there is no folder */
};

/* Make a folder in XDG_RUNTIME_DIR or /tmp.
 * ret: path is set on failure, too.
 * Returns an fd with a lock, which the caller closes; -errno. */
int run_folder_make(struct run_folder *ret);
/* Lock a folder that another process has made and has locked. Returns an fd, which the caller closes; -ESTALE: the
 * folder has been removed; -errno. */
int run_folder_lock(const struct run_folder *f);
/* Remove the socket and the folder. */
void run_folder_remove(const struct run_folder *f);
/* Remove this user's folders that no process uses. */
void run_folders_sweep(void);

#endif

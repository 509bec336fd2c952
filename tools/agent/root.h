/* root: makes the agent the init of a VM whose root is a squashfs image (`cairn run --image`). It mounts the image
 * below an overlay in memory, reaps orphans and handles the power button. */
#ifndef CAIRN_TOOLS_AGENT_ROOT_H
#define CAIRN_TOOLS_AGENT_ROOT_H

/* Mount the image on the first disk, and change the root folder. For the first process of an initramfs.
 * ret_what: on an error, the failed step.
 * Returns 0 or -errno. */
int root_enter(const char **ret_what);
/* Fork, and return in the child, which is to be the agent. This process reaps orphans, and ends the VM when the child
 * ends. */
void root_fork(void);
/* Make a folder and those above it, each with the mode 0755, unless they exist. Returns 0 or -errno. */
int root_folder_make(const char *folder);
/* Mount a virtio-fs share. folder: absolute; it is made if it is missing. Returns 0 or -errno. */
int root_share_mount(const char *tag, const char *folder);

#endif

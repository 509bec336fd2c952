/* cgroup: control groups of version 2, as the host has mounted them. Any thread. */
#ifndef CAIRN_BASE_CGROUP_H
#define CAIRN_BASE_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The controllers that limit a VM. */
enum cgroup_controller { CGROUP_CPU, CGROUP_MEMORY, CGROUP_PIDS, CGROUP_CONTROLLERS };

/* The name of a controller: "cpu", … */
const char *cgroup_controller_name(enum cgroup_controller controller);

/* Find where version 2 is mounted. Returns buf; NULL: it is not mounted. */
const char *cgroup_mount(char *buf, size_t size);
/* Print the folder of a process's group below the mount. The group may lie outside a container's mount: then the mount
 * stands for it. pid: 0: the calling process. */
void cgroup_folder(const char *mount, pid_t pid, char *buf, size_t size);
/* Read which controllers a file of a group lists. file: "cgroup.controllers" or "cgroup.subtree_control". */
void cgroup_controllers_read(const char *folder, const char *file, bool ret_has[CGROUP_CONTROLLERS]);
/* List the controllers whose has[] equals `present`: "cpu, memory". Returns buf. */
const char *cgroup_controllers_list(const bool has[CGROUP_CONTROLLERS], bool present, char *buf, size_t size);

#endif

/* memory_pressure: the kernel's pressure stall information (PSI) about memory, as a file descriptor for poll(). Any
 * thread. */
#ifndef CAIRN_BASE_MEMORY_PRESSURE_H
#define CAIRN_BASE_MEMORY_PRESSURE_H

#define MEMORY_PRESSURE_HOST "/proc/pressure/memory"
#define MEMORY_PRESSURE_GROUP "memory.pressure" /* in the folder of a control group */

/* Open a file of memory pressure and set a trigger on it: poll() reports POLLPRI once, at most every 2 s, after threads
 * have waited for memory for 10 % of 2 s; and POLLERR when the control group was removed.
 * folder: fd that a relative path starts from.
 * Returns the fd, owned by the caller; -ENOENT: no such file, or a kernel without PSI; -EPERM: the kernel permits
 * triggers only to root; -errno. */
int memory_pressure_open(int folder, const char *path);

#endif

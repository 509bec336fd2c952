/* qmp_device: the nodes and objects that clients of a VM's own socket have added with blockdev-add, netdev_add and
 * object-add, which device_add names. Only the daemon knows them, so the next daemon has none; the devices stay. */
#ifndef CAIRN_API_QMP_QMP_DEVICE_H
#define CAIRN_API_QMP_QMP_DEVICE_H

#include <stdint.h>

struct definition_disk;
struct json_object;
struct vm;

/* Maximum number of them for one VM. */
#define QMP_BACKENDS_MAX 128

enum qmp_backend_kind { QMP_FILE, QMP_NODE, QMP_NETDEV, QMP_IOTHREAD };

struct qmp_backend {
	struct qmp_backend *next;
	enum qmp_backend_kind kind;
	char id[32];
	/* Owned. A disk or an interface of a definition, without id; NULL: none. */
	struct json_object *part;
	char device[16]; /* QMP_NETDEV: id of the interface that was attached with it last; "": none */
};

/* A running VM's device, found by its id. ret_index: its place in the definition's list; NULL: not wanted. */
enum qmp_device_kind { QMP_IS_ABSENT, QMP_IS_DISK, QMP_IS_INTERFACE };
enum qmp_device_kind qmp_device_find(const struct vm *vm, const char *id, uint32_t *ret_index);

void qmp_backends_free(struct qmp_backend *list);
/* Return the name of the node that a disk's image was added as; the disk's id if it was not added so. */
const char *qmp_node_name(const struct vm *vm, const struct definition_disk *disk);
/* Find the disk whose image was added as this node, or else the disk of this id. NULL: there is none, or name is
 * NULL. */
const struct definition_disk *qmp_disk_find(const struct vm *vm, const char *name);
/* Return the path of the image that was added as this node, or else of the disk of this id; the list or the definition
 * owns it. NULL: there is none. */
const char *qmp_node_path(const struct vm *vm, const char *name);

#endif

/* pin_scan: completes the list of pins (pins.h) from the disks of the VMs. The header of an overlay on a pin names the
 * pin, so a list that was lost or damaged can be built again from the overlays. When a VM is defined, an overlay that
 * somebody copied or moved joins the list, and one that another file has replaced leaves it. Processes with the rights
 * of the VMs' definers (fork_as.h) read the headers as far as the name of the backing file, and report only the pin.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_PIN_SCAN_H
#define CAIRN_API_VM_PIN_SCAN_H

struct definition;
struct pin_scan;
struct vm_host;

struct pin_scan_result {
	unsigned added;    /* number of overlays that joined the list */
	unsigned replaced; /* number of overlays that left the list because another file has their path */
	/* Number of images that the list lacks and that could not be read. After pin_scan_all(), the next daemon scans
	 * again. */
	unsigned unread;
};

/* Read the images of all VMs that may be overlays, complete the list, and set whether it is complete. Runs the loop for
 * about PIN_SCAN_TIMEOUT_NS at most. Stores the list. */
#define PIN_SCAN_TIMEOUT_NS (10 * 1000000000ULL)
void pin_scan_all(struct vm_host *host, struct pin_scan_result *ret);

/* Begin to read the images of a definition that may be overlays. def: borrowed for the call. done: called once from the
 * loop, unless pin_scan_free() comes first. Returns NULL: there are none, or no process can be started to read them;
 * done() is not called then. */
struct pin_scan *pin_scan_begin(struct vm_host *host, const struct definition *def, void (*done)(void *opaque),
	void *opaque);
/* Correct the list as a finished scan has found. The caller stores the list. */
void pin_scan_take(struct pin_scan *s, struct pin_scan_result *ret);
/* NULL allowed. */
void pin_scan_free(struct pin_scan *s);

#endif

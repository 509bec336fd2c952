/* rtc: MC146818 clock and CMOS memory at ports 0x70 and 0x71; UTC from CLOCK_REALTIME.
 *
 * A timer of ours runs only while the guest has an interrupt enabled. Source: Motorola
 * MC146818A data sheet; CMOS bytes for memory sizes as the PC/AT's BIOS left them. */
#ifndef CAIRN_DEVICES_LEGACY_RTC_H
#define CAIRN_DEVICES_LEGACY_RTC_H

#include <stdint.h>

struct bus;
struct dev_host;
struct device;
struct err;

#include <stdint.h>

#define RTC_PORT 0x70
#define RTC_GSI 8
#define RTC_CENTURY_REGISTER 0x32 /* for the FADT */

/* name "rtc". h->loop runs its timer; memory sizes come from h->ram. Freed through the
 * device's ops. Returns 0 or -errno. */
int rtc_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);
/* For guests that take the clock for local time; before the VM runs. */
void rtc_set_ahead(struct device *rtc, int32_t of_utc_s);

#endif

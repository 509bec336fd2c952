/* acpi_pm: ACPI's fixed hardware: PM1a events and control, the PM timer, GPE0.
 *
 * Source: ACPI 6.4, section 4.8. ACPI is always on: SCI_EN reads 1 and there is no
 * SMI_CMD. The SCI is GSI 9, level, active high. */
#ifndef CAIRN_DEVICES_ACPI_PM_H
#define CAIRN_DEVICES_ACPI_PM_H

struct bus;
struct dev_host;
struct device;
struct err;

/* Ports and values that the FADT announces. */
#define ACPI_PM1_EVT_PORT 0x600 /* status 2 bytes, enable 2 bytes */
#define ACPI_PM1_EVT_BYTES 4
#define ACPI_PM1_CNT_PORT 0x604
#define ACPI_PM1_CNT_BYTES 2
#define ACPI_PM_TMR_PORT 0x608
#define ACPI_PM_TMR_BYTES 4
#define ACPI_GPE0_PORT 0x620 /* status, then enable */
#define ACPI_GPE0_BYTES 4    /* 16 events */
#define ACPI_SCI_GSI 9
#define ACPI_S5_SLP_TYP 5 /* SLP_TYP of S5 in the DSDT's \_S5 */

/* Create the device "acpi-pm". Free it through its ops. Returns 0 or -errno. */
int acpi_pm_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);

/* Turn the VM off by SLP_TYP 0, too, as UEFI firmware does for the ICH9. */
void acpi_pm_accept_type_0(struct device *d);
/* Press the power button. Any thread. */
void acpi_pm_press_power_button(struct device *d);
/* Raise general-purpose event n (0..15). Any thread. */
void acpi_pm_raise_gpe(struct device *d, unsigned n);

#endif

/**
 * Where the kernel put the Pi's lines: sysfs numbers are the chip's base plus the BCM number, and the base differs between
 * models and kernels (512, 571, 399 …), so it is found by the chip's label.
 */
import { readdirSync, readFileSync } from 'node:fs';

export const SYSFS_ROOT = '/sys/class/gpio';

/** Labels of the chips that carry the header: Pi 0–3, Pi 4, Pi 5. */
export const CHIP_LABELS = ['pinctrl-bcm2835', 'pinctrl-bcm2711', 'pinctrl-rp1'] as const;

export interface GpioChip {
  readonly label: string;
  /** sysfs number of BCM line 0. */
  readonly base: number;
  readonly lines: number;
}

/** Returns every chip that sysfs shows, in order of base; chips that cannot be read are left out. Throws ENOENT where there is no sysfs GPIO at all. */
export function listChips(root = SYSFS_ROOT): GpioChip[] {
  const chips = readdirSync(root).filter((name) => /^gpiochip\d+$/.test(name));
  return chips
    .flatMap((name): GpioChip[] => {
      try {
        const read = (attribute: string): string => readFileSync(`${root}/${name}/${attribute}`, 'utf8').trim();
        const chip = { label: read('label'), base: Number(read('base')), lines: Number(read('ngpio')) };
        return Number.isInteger(chip.base) && chip.base >= 0 && Number.isInteger(chip.lines) && chip.lines > 0 ? [chip] : [];
      } catch {
        return [];
      }
    })
    .sort((a, b) => a.base - b.base);
}

/** Returns the chip of the header, or a text why there is none. Kernels may show a chip twice (an alias): the lowest base is taken. */
export function findChip(root = SYSFS_ROOT): GpioChip | { readonly missing: string } {
  let chips: GpioChip[];
  try {
    chips = listChips(root);
  } catch (error) {
    return { missing: `${root} cannot be read (${(error as NodeJS.ErrnoException).code ?? error}): this kernel has no GPIO by sysfs` };
  }
  const found = chips.find(({ label }) => (CHIP_LABELS as readonly string[]).includes(label));
  if (found !== undefined) return found;
  return { missing: `no chip labelled ${CHIP_LABELS.join(', ')} below ${root}; there: ${chips.map(({ label }) => label).join(', ') || 'none'}` };
}

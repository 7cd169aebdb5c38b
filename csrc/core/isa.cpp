#include "core/isa.h"

#include <stdexcept>

namespace transmamba {
namespace {

Isa best_isa() { return available_isas().back(); }

Isa& chosen() {
  static Isa isa = best_isa();
  return isa;
}

}  // namespace

std::vector<Isa> available_isas() {
  std::vector<Isa> isas = {Isa::baseline};
#if defined(TRANSMAMBA_X86_LEVELS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v3")) isas.push_back(Isa::v3);
  if (__builtin_cpu_supports("x86-64-v4")) isas.push_back(Isa::v4);
#endif
  return isas;
}

Isa current_isa() { return chosen(); }

void use_isa(Isa isa) {
  for (Isa candidate : available_isas()) {
    if (candidate == isa) {
      chosen() = isa;
      return;
    }
  }
  throw std::invalid_argument(std::string("instruction set ") + name(isa) + " is not available on this machine");
}

const char* name(Isa isa) {
#if defined(__aarch64__)
  constexpr const char* baseline = "neon";
#elif defined(__x86_64__)
  constexpr const char* baseline = "x86-64";
#else
  constexpr const char* baseline = "baseline";
#endif
  return isa == Isa::v4 ? "x86-64-v4" : isa == Isa::v3 ? "x86-64-v3" : baseline;
}

}  // namespace transmamba

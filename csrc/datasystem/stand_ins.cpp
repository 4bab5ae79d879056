#include "datasystem/stand_ins.hpp"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace yr_fastload::stand_ins {

namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kCall = R_X86_64_JUMP_SLOT;
#elif defined(__aarch64__)
constexpr std::uint32_t kCall = R_AARCH64_JUMP_SLOT;
#endif

/// The library, which this module is linked to.
void* library() noexcept {
  static void* const handle = ::dlopen("libdatasystem.so", RTLD_LAZY | RTLD_NOLOAD);
  return handle;
}

const link_map* loaded() noexcept {
  link_map* map = nullptr;
  return library() != nullptr && ::dlinfo(library(), RTLD_DI_LINKMAP, &map) == 0 ? map : nullptr;
}

/// Where the library has the address of what it calls by that name; null if it does not.
void** slot(const char* symbol) noexcept {
  const link_map* const map = loaded();
  if (map == nullptr) return nullptr;
  const ElfW(Rela)* calls = nullptr;
  const ElfW(Sym)* symbols = nullptr;
  const char* names = nullptr;
  std::size_t bytes = 0;
  for (const ElfW(Dyn)* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag == DT_JMPREL) calls = reinterpret_cast<const ElfW(Rela)*>(entry->d_un.d_ptr);
    if (entry->d_tag == DT_PLTRELSZ) bytes = entry->d_un.d_val;
    if (entry->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(entry->d_un.d_ptr);
    if (entry->d_tag == DT_STRTAB) names = reinterpret_cast<const char*>(entry->d_un.d_ptr);
  }
  if (calls == nullptr || symbols == nullptr || names == nullptr) return nullptr;
  for (const ElfW(Rela)* call = calls; call != calls + bytes / sizeof(*calls); ++call)
    if (ELF64_R_TYPE(call->r_info) == kCall &&
        std::strcmp(names + symbols[ELF64_R_SYM(call->r_info)].st_name, symbol) == 0)
      return reinterpret_cast<void**>(map->l_addr + call->r_offset);
  return nullptr;
}

struct Question {
  ElfW(Addr) library;
  ElfW(Addr) slot;
  bool is_read_only;
};

std::uintptr_t page_of(std::uintptr_t address) noexcept {
  return address & ~(static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE)) - 1);
}

/// Whether the loader has made this part of the table read-only once it was filled ("relro").
bool is_read_only(const void* slot) noexcept {
  Question asked{loaded()->l_addr, reinterpret_cast<ElfW(Addr)>(slot), false};
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        auto& found = *static_cast<Question*>(data);
        if (info->dlpi_addr != found.library) return 0;
        for (const ElfW(Phdr)* part = info->dlpi_phdr; part != info->dlpi_phdr + info->dlpi_phnum; ++part) {
          const std::uintptr_t begin = info->dlpi_addr + part->p_vaddr;
          if (part->p_type == PT_GNU_RELRO)
            found.is_read_only = page_of(begin) <= found.slot && found.slot < page_of(begin + part->p_memsz);
        }
        return 1;
      },
      &asked);
  return asked.is_read_only;
}

}  // namespace

void* find(const char* symbol) noexcept { return library() == nullptr ? nullptr : ::dlsym(library(), symbol); }

void replace(const char* symbol, void* stand_in) noexcept {
  void** const entry = slot(symbol);
  if (entry == nullptr) return;
  const bool unlock = is_read_only(entry);
  void* const page = reinterpret_cast<void*>(page_of(reinterpret_cast<std::uintptr_t>(entry)));
  if (unlock && ::mprotect(page, sizeof(void*), PROT_READ | PROT_WRITE) != 0) return;
  __atomic_store_n(entry, stand_in, __ATOMIC_RELEASE);
  if (unlock) ::mprotect(page, sizeof(void*), PROT_READ);
}

}  // namespace yr_fastload::stand_ins

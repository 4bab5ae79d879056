#include "engine/fault_parser.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <utility>

#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

// Plain arrays: threads parse the control file until the process ends, when a map may be destroyed already.
constexpr std::pair<const char*, Operation> kOperations[] = {
    {"send", Operation::kSend},     {"recv", Operation::kRecv}, {"copy", Operation::kCopy},
    {"malloc", Operation::kMalloc}, {"comm", Operation::kComm}, {"link", Operation::kLink},
    {"query", Operation::kQuery},   {"init", Operation::kInit}, {"pin", Operation::kPin},
    {"share", Operation::kShare},   {"open", Operation::kOpen}, {"register", Operation::kRegister},
    {"peer", Operation::kPeer}};
constexpr std::pair<const char*, Action> kActions[] = {
    {"fail", Action::kFail},       {"delay_ms", Action::kDelay},  {"freeze", Action::kFreeze}, {"drop", Action::kDrop},
    {"corrupt", Action::kCorrupt}, {"oom", Action::kOutOfMemory}, {"gbps", Action::kRate},     {"code", Action::kCode}};

template <typename Value, std::size_t count>
std::optional<Value> named(const std::pair<const char*, Value> (&values)[count], const std::string& name) {
  for (const auto& [known, value] : values)
    if (name == known) return value;
  return std::nullopt;
}

bool takes_value(Action action) {
  return action == Action::kDelay || action == Action::kCorrupt || action == Action::kRate || action == Action::kCode;
}

bool fits(Operation operation, Action action) {
  switch (action) {
    case Action::kDrop:
      return operation == Operation::kSend || operation == Operation::kRecv;
    case Action::kCorrupt:
      return operation == Operation::kRecv || operation == Operation::kCopy;
    case Action::kOutOfMemory:
      return operation == Operation::kMalloc || operation == Operation::kPin || operation == Operation::kRegister;
    case Action::kRate:
      return operation == Operation::kLink;
    case Action::kCode:
      return operation == Operation::kInit || operation == Operation::kPin || operation == Operation::kRegister ||
             operation == Operation::kOpen;
    case Action::kFail:
      return operation != Operation::kLink;
    default:
      return operation != Operation::kLink && operation != Operation::kInit;
  }
}

/// OP[@N[+]]
bool parse_operation(const std::string& text, Fault& fault) {
  const auto at = text.find('@');
  const auto operation = named(kOperations, text.substr(0, at));
  if (!operation) return false;
  fault.operation = *operation;
  if (at == std::string::npos) return true;
  std::string number = text.substr(at + 1);
  const bool onwards = !number.empty() && number.back() == '+';
  if (onwards) number.pop_back();
  if (number.empty() || number.size() > 18 || number.find_first_not_of("0123456789") != std::string::npos) return false;
  fault.first = std::strtoull(number.c_str(), nullptr, 10);
  if (!onwards) fault.last = fault.first;
  return fault.first > 0;
}

/// ACTION[=VALUE]
bool parse_action(const std::string& text, Fault& fault) {
  const auto equals = text.find('=');
  const auto action = named(kActions, text.substr(0, equals));
  if (!action || takes_value(*action) != (equals != std::string::npos)) return false;
  fault.action = *action;
  if (!takes_value(*action)) return true;
  const std::string number = text.substr(equals + 1);
  char* end = nullptr;
  fault.value = std::strtod(number.c_str(), &end);
  return !number.empty() && *end == '\0' && std::isfinite(fault.value) && fault.value >= 0;
}

std::optional<Fault> parse(const std::string& text) {
  Fault fault;
  fault.text = text;
  const auto colon = text.find(':');
  if (colon == std::string::npos || !parse_operation(text.substr(0, colon), fault) ||
      !parse_action(text.substr(colon + 1), fault) || !fits(fault.operation, fault.action))
    return std::nullopt;
  return fault;
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

std::vector<Fault> parse_faults(const std::string& text, const std::string& from, bool& valid) {
  std::vector<Fault> faults;
  std::string lines = text;
  std::replace(lines.begin(), lines.end(), ';', '\n');
  std::istringstream stream(lines);
  for (std::string line; std::getline(stream, line);) {
    line = trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    if (const auto fault = parse(line)) {
      faults.push_back(*fault);
    } else {
      report(from + ": '" + line + "' is no fault; they are OP[@N[+]]:ACTION[=VALUE]");
      valid = false;
    }
  }
  return faults;
}

}  // namespace yr_fastload::sim

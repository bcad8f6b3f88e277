"""Pure decisions: how votes add up and when to stop. Data in, decision out; no await, no clock."""

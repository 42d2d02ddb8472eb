-- Customers for trying things out: numbers nobody has, and appointments that are always in the coming days.
--
-- Applied again it changes nothing for customers who are there; their appointments are moved to the coming days, each unless
-- somebody has booked its time since.

insert into customers (phone, name, locale, status) values
  ('+15550100001', 'Maria Lopez', 'en', 'active'),
  ('+15550100002', 'James Carter', 'en', 'vip'),
  ('+15550100003', 'Priya Patel', 'en', 'lead'),
  ('+5511999990001', 'Ana Souza', 'pt-BR', 'active'),
  ('+551199990002', 'Bruno Lima', 'pt-BR', 'active'),  -- stored as it was before the ninth digit
  ('+5521999990003', 'Carla Dias', 'pt-BR', 'inactive')
on conflict do nothing;

insert into customer_facts (customer_id, key, value, source)
select c.id, fact.key, fact.value::jsonb, 'seed'
from (values
  ('+15550100001', 'favourite_stylist', '"Rosa"'),
  ('+15550100001', 'visits', '7'),
  ('+15550100002', 'allergy', '"latex"'),
  ('+15550100002', 'preferred_time', '"mornings"'),
  ('+15550100003', 'found_us_by', '"a friend"'),
  ('+5511999990001', 'profissional_preferida', '"Júlia"'),
  ('+5511999990001', 'visitas', '4'),
  ('+5511999990002', 'observação', '"prefere o fim da tarde"'),
  ('+5521999990003', 'idioma', '"português"')
) as fact (phone, key, value)
join customers c on phone_key(c.phone) = phone_key(fact.phone)
on conflict (customer_id, key) do nothing;

-- Days from today and hours in the time zone of the calendar; the same key again is the same appointment. One by one, so that one
-- whose time is taken keeps no other from being moved.
do $$
declare
  planned record;
begin
  for planned in
    select c.id as customer, booked.key, booked.notes, slot.starts_at,
      slot.starts_at + make_interval(mins => booked.minutes) as ends_at
    from (values
      ('seed:1', '+15550100001', 1, time '10:00', 30, 'America/New_York', 'haircut'),
      ('seed:2', '+15550100001', 15, time '10:00', 60, 'America/New_York', 'colour'),
      ('seed:3', '+15550100002', 2, time '09:30', 30, 'America/New_York', 'check-up'),
      ('seed:4', '+5511999990001', 1, time '14:00', 30, 'America/Sao_Paulo', 'corte'),
      ('seed:5', '+5511999990002', 3, time '17:30', 30, 'America/Sao_Paulo', 'consulta')
    ) as booked (key, phone, days, hour, minutes, zone, notes)
    join customers c on phone_key(c.phone) = phone_key(booked.phone)
    cross join lateral (
      select ((now() at time zone booked.zone)::date + booked.days + booked.hour) at time zone booked.zone as starts_at
    ) slot
  loop
    begin
      insert into appointments (customer_id, calendar, starts_at, ends_at, notes, request_key)
        values (planned.customer, 'main', planned.starts_at, planned.ends_at, planned.notes, planned.key)
        on conflict (request_key) do update
          set starts_at = excluded.starts_at, ends_at = excluded.ends_at, updated_at = now();
    exception when exclusion_violation then
      raise notice '%: its time is taken, nothing is changed', planned.key;
    end;
  end loop;
end
$$;
